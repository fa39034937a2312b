"""The landmark error table: before and after, kept up to date while landmarks or transforms move."""

from __future__ import annotations

import numpy as np
import qt
import slicer
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from ProgressiveRegistrationLib.statistics import STATISTICS, statistics
from slicer.util import VTKObservationMixin

from ProgressiveRegistrationSlicer import mrml_landmarks

from .i18n import _, translate
from .looks import BAD, GOOD, breakable, colour

UPDATE_MS = 80  # changes closer together than this (a dragged point) are shown once
_POINT_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLMarkupsNode.PointAddedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)


class TrePanel(VTKObservationMixin):
    """Fills a label and a QTableWidget with the TRE of two point lists under a transform.

    ``set_nodes`` says what to measure; ``errors`` holds the latest ``LandmarkErrors`` or None. Outputs that
    the user asked for (``table_node``, ``model_node``) follow along; the measurement in the moving list
    always does, and goes when there is nothing to measure.
    """

    def __init__(self, summary, table) -> None:
        VTKObservationMixin.__init__(self)
        self.errors = None
        self.message = ""
        self._summary, self._table = summary, table
        self._nodes = (None, None, None)
        self.table_node = self.model_node = None
        self._updating = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(UPDATE_MS)
        self._timer.connect("timeout()", self.update)
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Landmark"), _("Before (mm)"), _("After (mm)")])
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(22)
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.connect("cellClicked(int,int)", self._clicked)
        table.connect("currentCellChanged(int,int,int,int)", self._current_changed)
        self.update()

    def set_nodes(self, fixed, moving, transform) -> None:
        """Measure these from now on; without lists the table is empty, without a transform "before" alone."""
        if (fixed, moving, transform) == self._nodes:
            return
        self.removeObservers()
        self._nodes = (fixed, moving, transform)
        for node in dict.fromkeys((fixed, moving)):  # the same list may be chosen twice
            if node is not None:
                for event in _POINT_EVENTS:
                    self.addObserver(node, event, self._changed)
        if transform is not None:
            self.addObserver(transform, slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._changed)
        self.update()

    def close(self) -> None:
        """Forget all nodes: before the scene closes, or the window."""
        self._timer.stop()
        self.removeObservers()
        self._nodes = (None, None, None)
        self.table_node = self.model_node = None
        self.update()

    def _changed(self, caller=None, event=None) -> None:
        if not self._updating:
            self._timer.start()

    def update(self) -> None:
        """Measure and show, now."""
        self._timer.stop()
        fixed, moving, transform = self._nodes
        self.errors, self.message = None, ""
        if fixed is None or moving is None:
            self.message = _("Select fixed and moving landmarks to see their error.")
        elif fixed is moving:
            self.message = _("Fixed and moving landmarks are the same list.")
        else:
            try:
                self.errors = mrml_landmarks.landmark_errors(fixed, moving, transform)
            except ProgressiveRegistrationError as error:
                self.message = str(error)
        self._updating = True
        try:
            self._show()
            if moving is not None and (self.errors is None or transform is None):
                mrml_landmarks.remove_measurement(moving)  # an old one would be saved with the list
            if self.errors is not None:
                self._store(moving, transform)
        finally:
            self._updating = False

    def _store(self, moving, transform) -> None:
        if transform is not None:
            mrml_landmarks.store_measurement(self.errors, moving)
        if self.table_node is not None:
            mrml_landmarks.update_table(self.errors, self.table_node)
        if self.model_node is not None:
            mrml_landmarks.update_error_model(self.errors, self.model_node)
            mrml_landmarks.show_error_model(self.model_node, self.scale)

    @property
    def scale(self) -> float:
        """mm that get the reddest colour: 5, or the largest error where that is more."""
        return 5.0 if self.errors is None else max(5.0, float(self.errors.after.max()))

    def order(self) -> np.ndarray:
        """Which pair each table row shows: worst first."""
        return self.errors.worst_first()

    def _show(self) -> None:
        if self.errors is None:
            self._table.setRowCount(0)
            self._summary.setText(breakable(self.message))
            return
        self._summary.setText(summary_html(self.errors, self._nodes[2] is not None))
        order = self.order()
        measured = self._nodes[2] is not None
        self._table.setRowCount(len(order))
        for row, n in enumerate(order):
            after = f"{self.errors.after[n]:.2f}" if measured else ""
            cells = (self.errors.labels[n], f"{self.errors.before[n]:.2f}", after)
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self._table.setItem(row, column, item)
            if measured:
                better = self.errors.after[n] <= self.errors.before[n]
                shade = colour(GOOD if better else BAD, self._table)
                self._table.item(row, 2).setForeground(qt.QBrush(qt.QColor(shade)))

    def _clicked(self, row, column) -> None:
        self.jump(row)

    def _current_changed(self, row, column, previous_row, previous_column) -> None:
        if not self._updating and row != previous_row:
            self.jump(row)

    def jump(self, row: int) -> None:
        """Show the landmark of a table row in all slice views."""
        if self.errors is None or not 0 <= row < len(self.errors.labels):
            return
        ras = self.errors.fixed[self.order()[row]] * [-1, -1, 1]
        slicer.vtkMRMLSliceNode.JumpAllSlices(
            slicer.mrmlScene, *ras, slicer.vtkMRMLSliceNode.CenteredJumpSlice
        )


def summary_html(errors, with_transform: bool) -> str:
    """A small table of the statistics, and how the landmarks were matched."""
    columns = [(_("Before"), statistics(errors.before))]
    if with_transform:
        columns.append((_("After"), statistics(errors.after)))
    # a statistic a row: a table of many columns would keep the panel wide
    head = "".join(f"<th align='right'>&nbsp;{title}</th>" for title, _figures in columns)
    body = ""
    for key, statistic in STATISTICS.items():
        cells = "".join(f"<td align='right'>&nbsp;{figures[key]:.2f}</td>" for _title, figures in columns)
        body += f"<tr><td>{translate('Statistics', statistic.label)}</td>{cells}</tr>"
    unit = _("Target registration error in mm, not snapped to voxels.")
    return f"<table cellspacing='2'><tr><th></th>{head}</tr>{body}</table><p>{errors.how} {unit}</p>"


def add_table_node(errors) -> object:
    """A new table node with the errors, for export."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(_("Landmark errors"))
    )
    mrml_landmarks.update_table(errors, node)
    return node


def add_model_node(errors, scale: float) -> object:
    """A new model node that draws the errors."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(_("Landmark error vectors"))
    )
    mrml_landmarks.update_error_model(errors, node)
    mrml_landmarks.show_error_model(node, scale)
    return node
