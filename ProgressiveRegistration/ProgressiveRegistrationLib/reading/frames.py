"""One frame of a time sequence: a 4DCT in one file, or what Slicer saves of a sequence."""

from __future__ import annotations

import SimpleITK as sitk

from ..errors import InputError


def check_frame(frame: int | None, count: int, name: str, option: str | None) -> int:
    """The number of the frame to take, counted from 0; InputError where it is not said, or not there."""
    if count == 1 and frame in (None, 0):
        return 0
    if frame is None:
        choice = (
            f"choose a frame with {option} N, N from 0 to {count - 1}" if option else "give one frame of it"
        )
        raise InputError(f"{name} is a time sequence of {count} volumes; {choice}.")
    if not 0 <= frame < count:
        raise InputError(f"{name} has no frame {frame}; its {count} frames are counted from 0.")
    return frame


def one_frame(
    image: sitk.Image, frame: int | None, name: str, option: str | None, *, listed: bool
) -> sitk.Image:
    """The 3D image of one frame of a 4D image, or of a 3D image whose values
    at a voxel are frames (``listed``)."""
    if image.GetDimension() == 4:
        return image[..., check_frame(frame, image.GetSize()[3], name, option)]
    if listed:
        chosen = check_frame(frame, image.GetNumberOfComponentsPerPixel(), name, option)
        return sitk.VectorIndexSelectionCast(image, chosen)
    if frame:
        raise InputError(f"{name} is a single volume, no time sequence; leave the frame out.")
    return image
