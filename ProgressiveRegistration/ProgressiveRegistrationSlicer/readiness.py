"""What keeps the user from pressing Register, in words short enough for the button."""

from __future__ import annotations

from ProgressiveRegistrationLib.errors import InputError

from ProgressiveRegistrationSlicer import mrml

from .i18n import _


def obstacle(parameters) -> tuple[str, str]:
    """(text for the button, whole sentence for its tool tip); both "" when the registration can start."""
    if parameters is None:
        return _("Register"), ""
    fixed, moving = parameters.fixedVolume, parameters.movingVolume
    if fixed is None:
        return _("Select a fixed volume"), _(
            "The fixed volume gives the frame that the moving one is aligned to."
        )
    if moving is None:
        return _("Select a moving volume"), _("The moving volume is the one that is aligned.")
    if fixed is moving:
        return _("Fixed and moving are the same"), _("Select two different volumes.")
    wanted = ("wantTransform", "wantWarped", "wantJacobian", "wantBSpline", "wantHardened")
    if not any(getattr(parameters, name) for name in wanted):
        return _("Choose at least one output"), _(
            "Tick a transform, a registered volume or a Jacobian volume."
        )
    for node, label in ((fixed, _("Fixed volume")), (moving, _("Moving volume"))):
        try:
            mrml.check_volume(node)
        except InputError as error:
            return _("{volume} cannot be used").format(volume=label), str(error)
    outputs = [
        node
        for wanted, node in (
            (parameters.wantWarped, parameters.warpedVolume),
            (parameters.wantJacobian, parameters.jacobianVolume),
        )
        if wanted and node is not None
    ]
    if any(node is fixed or node is moving for node in outputs):
        return _("An output is also an input"), _("Choose another volume for the output: inputs are kept.")
    if len(outputs) == 2 and outputs[0] is outputs[1]:
        return _("Two outputs are the same volume"), _("Choose different volumes for the two outputs.")
    return "", ""
