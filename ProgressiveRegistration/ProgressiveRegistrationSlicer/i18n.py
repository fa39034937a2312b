"""Translation of user-facing text, with Slicer's own functions where they exist (5.4 and later)."""

try:
    from slicer.i18n import tr as _
    from slicer.i18n import translate
except ImportError:  # an older application: English only

    def _(text):
        return text

    def translate(context, text):
        return text


__all__ = ["_", "translate"]
