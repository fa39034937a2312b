"""What a person looks at and answers: the same words on the page and in the PDF."""

from __future__ import annotations

ANSWERS = ("pass", "acceptable", "not acceptable")
LOOKED_AT = (
    ("Diaphragm and lung bases", "fixed and moved edges meet in the coronal and sagittal overlay"),
    ("Vessels near the hila", "no double contours after registration"),
    ("Peripheral vessels and fissures", "followed through the slices, in the region of interest above all"),
    ("Chest wall and ribs", "no implausible shear or stretching where the field is used"),
    ("Target or lesion", "its place and shape after registration are right for the purpose"),
    ("Volume change", "the Jacobian map shows no pattern that the anatomy does not explain"),
    (
        "Where not to trust it",
        "the uncertainty map's marked places do not touch what the registration is used for",
    ),
)
SIGNED = ("Purpose of this registration", "Overall verdict", "Name", "Role", "Date", "Signature")
TOLERANCES = (
    "Tolerances of TG-132's table III as later publications and programs quote it, unless said otherwise; "
    "have the paper beside you. A figure within its tolerance does not make a registration right: look at it."
)
DISCLAIMER = "Research software; not a medical device. The verdict is the signing person's."
