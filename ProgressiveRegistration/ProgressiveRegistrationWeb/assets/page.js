// Sends dropped or chosen files to the server, and loads the page again when a lost server is back.
"use strict";
(() => {
  async function post(path, body) {
    const response = await fetch(path, { method: "POST", body });
    const text = await response.text();
    if (!response.ok) throw new Error(text || `The server answered ${response.status}.`);
    return text;
  }

  async function upload(role, files) {
    if (!files.length) return;
    let drop = "";
    try {
      drop = await post(`upload/begin?role=${role}&count=${files.length}`);
      for (const file of files) {
        await post(`upload/file?drop=${drop}&name=${encodeURIComponent(file.name)}`, file);
      }
      await post(`upload/done?drop=${drop}&role=${role}`);
    } catch (error) {
      await post(`upload/failed?drop=${drop}`, String(error.message || error).slice(0, 300)).catch(() => {});
    }
  }

  // The views are drawn once, in one size: that of the tab that is used. A view tells its size when it changes.
  let tabs = 1;
  function tellSize() {
    for (const picture of document.querySelectorAll(".picture")) {
      picture.style.bottom = "31px";
      setTimeout(() => (picture.style.bottom = ""), 50);
    }
  }
  window.addEventListener("focus", () => tabs > 1 && tellSize());

  const ready = setInterval(() => {
    if (!window.trame?.state?.watch) return;
    clearInterval(ready);
    // Where the controls lie over the views, they begin closed.
    if (window.innerWidth < 900) window.trame.state.set("drawer", false);
    window.trame.state.watch(["tabs"], (now) => {
      if (now < tabs && (now === 1 || document.hasFocus())) tellSize();
      tabs = now;
    });
  }, 50);

  const zone = (event) => event.target.closest?.("[data-role]");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // a file dropped beside a zone must not replace the page
      const target = zone(event);
      if (!target) return;
      target.classList.toggle("over", kind === "dragover");
      if (kind === "drop") upload(target.dataset.role, [...event.dataTransfer.files]);
    });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-upload]");
    if (!button || button.disabled) return;
    const input = document.createElement("input");
    input.type = "file";
    input.multiple = true;
    input.addEventListener("change", () => upload(button.dataset.upload, [...input.files]));
    input.click();
  });

  // The views' pictures come without a text; the frame around each has it.
  new MutationObserver(() => {
    for (const picture of document.querySelectorAll(".picture img:not([alt])")) picture.alt = "";
  }).observe(document.documentElement, { childList: true, subtree: true });

  setInterval(async () => {
    if (!document.getElementById("connection-lost")) return;
    try {
      const answer = await fetch("alive", { cache: "no-store" });
      if (answer.ok || answer.status === 401) window.location.reload();
    } catch (error) {
      /* still away */
    }
  }, 1000);
})();
