"""The panel's part for making landmarks: suggest, look at each, accept, move, reject, compare observers."""

from __future__ import annotations

import slicer
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from ProgressiveRegistrationLib.quality import statistics
from slicer.util import VTKObservationMixin

from . import landmark_review as reviews
from .i18n import _
from .two_up import TwoUp


class ReviewPanel(VTKObservationMixin):
    """Ties the buttons of "Make landmarks" to a ``Review`` of the two chosen lists.

    ``panel`` gives ``_parameterNode``, ``_start`` (background work), ``_errorsShown``, ``_showMessage`` and
    ``_task``.
    """

    def __init__(self, panel) -> None:
        VTKObservationMixin.__init__(self)
        self.two_up = TwoUp()
        self._panel, self.ui = panel, panel.ui
        self._lists: tuple = (None, None)
        self._review = None
        self._shown = None  # the landmark that the views were centred on
        self.ui.suggestButton.connect("clicked(bool)", self.on_suggest)
        self.ui.acceptButton.connect("clicked(bool)", self.on_accept)
        self.ui.rejectButton.connect("clicked(bool)", self.on_reject)
        self.ui.laterButton.connect("clicked(bool)", self.on_later)
        self.ui.twoUpButton.connect("toggled(bool)", self.on_two_up)

    def update(self) -> None:
        """Show where the review of the chosen lists stands."""
        p = self._panel._parameterNode
        if p is None:
            return
        lists = (p.fixedLandmarks, p.movingLandmarks)
        if lists != self._lists:
            self._watch(lists)
        busy = self._panel._task is not None
        self.ui.suggestButton.enabled = p.fixedVolume is not None and p.movingVolume is not None and not busy
        label = self._review.current if self._review is not None else None
        for button in (self.ui.acceptButton, self.ui.rejectButton, self.ui.laterButton):
            button.enabled = label is not None
        self.ui.twoUpButton.enabled = p.fixedVolume is not None and p.movingVolume is not None
        self.ui.reviewLabel.text = self._text(label)
        self.ui.reviewLabel.setVisible(bool(self.ui.reviewLabel.text))
        self._compare_observers(p)

    def close(self) -> None:
        """Give the views back, forget the lists."""
        self.two_up.restore()
        self._watch((None, None))

    def forget(self) -> None:
        """The scene is closing: nothing is to be given back."""
        self.two_up.forget()
        was_blocked = self.ui.twoUpButton.blockSignals(True)
        self.ui.twoUpButton.checked = False
        self.ui.twoUpButton.blockSignals(was_blocked)
        self._watch((None, None))

    # ---- the buttons

    def on_suggest(self, clicked=None) -> None:
        p, panel = self._panel._parameterNode, self._panel
        transform = p.evaluatedTransform
        with panel._errorsShown():
            panel.ensureInstalled()
            work = reviews.Suggestion(
                p.fixedVolume,
                p.movingVolume,
                transform,
                count=p.suggestCount,
                region=p.fixedRegion,
                segment=p.fixedSegment,
            )
            panel._start(work.compute, lambda computed: self._suggested(work, computed, transform))

    def _suggested(self, work, computed, transform) -> None:
        p = self._panel._parameterNode
        with self._panel._errorsShown():
            if transform is not None and not slicer.mrmlScene.IsNodePresent(transform):
                raise ProgressiveRegistrationError(
                    _("The transform was deleted meanwhile; nothing was suggested.")
                )
            if p.fixedLandmarks is None:
                p.fixedLandmarks = reviews.new_list(_("Fixed landmarks"))
            if p.movingLandmarks is None or p.movingLandmarks is p.fixedLandmarks:
                moving = reviews.new_list(_("Moving landmarks"))
                parent = p.movingVolume.GetParentTransformNode() if p.movingVolume is not None else None
                if parent is not None and parent is transform:
                    moving.SetAndObserveTransformNodeID(parent.GetID())  # shown with the volume
                p.movingLandmarks = moving
            reviews.visible_pair(p.fixedLandmarks, p.movingLandmarks)
            names = work.finish(computed, p.fixedLandmarks, p.movingLandmarks, transform)
            matched = int(computed["partners"].matched.sum())
            self._panel._showMessage(
                _(
                    "{count} landmarks suggested, {matched} with a partner that matches. Look at each, "
                    "move its points where needed, then accept or reject it."
                ).format(count=len(names), matched=matched)
            )
            self.ui.landmarksCollapsibleButton.collapsed = False
            self.ui.twoUpButton.checked = True
            self._shown = None
            self.update()
            self.jump()

    def on_accept(self, clicked=None) -> None:
        self._decide("accept")

    def on_reject(self, clicked=None) -> None:
        self._decide("reject")

    def on_later(self, clicked=None) -> None:
        self._decide("skip")

    def _decide(self, what: str) -> None:
        if self._review is None or self._review.current is None:
            return
        getattr(self._review, what)()
        self.update()
        self.jump()

    def on_two_up(self, shown) -> None:
        p = self._panel._parameterNode
        if shown and p is not None and p.fixedVolume is not None and p.movingVolume is not None:
            self._panel.pauseFusion()
            self.two_up.show(p.fixedVolume, p.movingVolume)
            self._shown = None
            self.jump()
        else:
            self.two_up.restore()

    def jump(self) -> None:
        """Centre the views on the current landmark, once; later the user may look around."""
        places = self._review.places() if self._review is not None else None
        if places is None or self._shown == self._review.current:
            return
        self._shown = self._review.current
        if self.two_up.shown:
            self.two_up.jump(*places)
        else:
            slicer.vtkMRMLSliceNode.JumpAllSlices(
                slicer.mrmlScene, *places[0], slicer.vtkMRMLSliceNode.CenteredJumpSlice
            )

    # ---- what is shown

    def _watch(self, lists: tuple) -> None:
        self.removeObservers()
        self._lists = lists
        usable = None not in lists and lists[0] is not lists[1]
        self._review = reviews.Review(*lists) if usable else None
        if usable:
            for node in lists:
                for event in (
                    slicer.vtkMRMLMarkupsNode.PointAddedEvent,
                    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
                    slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent,
                ):
                    self.addObserver(node, event, self._changed)

    def _changed(self, caller=None, event=None) -> None:
        if not slicer.mrmlScene.IsImporting():
            self.update()

    def _text(self, label) -> str:
        if self._review is None:
            return ""
        counts = reviews.tally(*self._lists)
        lines = []
        if label is not None:
            match = self._review.correlation()
            how = (
                _("images match: {value:.2f}").format(value=match)
                if match is not None
                else _("no clear match: the point is where the transform leads")
            )
            lines.append(
                _("<b>{label}</b> ({how}), {left} to go").format(label=label, how=how, left=counts["pending"])
            )
        told = reviews.tally_text(counts)
        return "<br>".join(line for line in (*lines, told) if line)

    def _compare_observers(self, p) -> None:
        text = ""
        if p.secondObserver is not None and p.movingLandmarks is not None:
            try:
                distances, _labels, how = reviews.observer_differences(p.movingLandmarks, p.secondObserver)
                s = statistics(distances)
                text = _(
                    "The two observers differ by {mean:.2f} ± {sd:.2f} mm, {most:.2f} mm at most. {how} "
                    "A landmark error as small as this says no more."
                ).format(mean=s["mean"], sd=s["sd"], most=s["max"], how=how)
            except ProgressiveRegistrationError as error:
                text = str(error)
        self.ui.observerLabel.text = text
        self.ui.observerLabel.setVisible(bool(text))
