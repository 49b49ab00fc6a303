"""Which mesh vertex is what: contours and correspondences on MediaPipe's 478-point face mesh.

Tables list the subject's right side (left of the picture) and obtain the other side through `MIRROR`, so
both sides agree by construction. Closed contours repeat no vertex.
"""

from typing import Final

MIRROR: Final[dict[int, int]] = {
    # jaw
    127: 356,
    234: 454,
    93: 323,
    132: 361,
    58: 288,
    172: 397,
    136: 365,
    150: 379,
    149: 378,
    176: 400,
    148: 377,
    # forehead
    109: 338,
    67: 297,
    103: 332,
    54: 284,
    21: 251,
    162: 389,
    # brow
    70: 300,
    63: 293,
    105: 334,
    66: 296,
    107: 336,
    46: 276,
    53: 283,
    52: 282,
    65: 295,
    55: 285,
    # eye
    33: 263,
    246: 466,
    161: 388,
    160: 387,
    159: 386,
    158: 385,
    157: 384,
    173: 398,
    133: 362,
    155: 382,
    154: 381,
    153: 380,
    145: 374,
    144: 373,
    163: 390,
    7: 249,
    # nose
    122: 351,
    188: 412,
    174: 399,
    217: 437,
    209: 429,
    49: 279,
    102: 331,
    64: 294,
    98: 327,
    97: 326,
    # outer and inner lips
    61: 291,
    185: 409,
    40: 270,
    39: 269,
    37: 267,
    146: 375,
    91: 321,
    181: 405,
    84: 314,
    78: 308,
    191: 415,
    80: 310,
    81: 311,
    82: 312,
    95: 324,
    88: 318,
    178: 402,
    87: 317,
}
"""Subject's right vertex -> its mirror image on the subject's left."""


def mirrored(indices: tuple[int, ...]) -> tuple[int, ...]:
    """The same vertices on the other side, in the same order; vertices on the midline stay."""
    return tuple(MIRROR.get(index, index) for index in indices)


def _closed(right_side: tuple[int, ...]) -> tuple[int, ...]:
    """Close a half contour that runs from a midline vertex to a midline vertex through its mirror image."""
    return right_side + mirrored(right_side[1:-1])[::-1]


FACE_OVAL: Final = _closed(
    (10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152)
)
"""Outline of the mesh, from the upper forehead over the subject's right ear to the chin and back. Its upper
edge
runs below the hairline."""

RIGHT_EYE: Final = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
"""Lid contour: outer corner, upper lid, inner corner, lower lid."""

LEFT_EYE: Final = mirrored(RIGHT_EYE)

RIGHT_BROW: Final = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
"""Upper edge from the temple to the nose, lower edge back."""

LEFT_BROW: Final = mirrored(RIGHT_BROW)

NOSE: Final = _closed((168, 122, 188, 174, 217, 209, 49, 102, 64, 98, 97, 2))
"""From the root between the eyes along the flank and the wing to the base."""

_UPPER_OUTER: Final = (61, 185, 40, 39, 37, 0)
_LOWER_OUTER: Final = (61, 146, 91, 181, 84, 17)
_UPPER_INNER: Final = (78, 191, 80, 81, 82, 13)
_LOWER_INNER: Final = (78, 95, 88, 178, 87, 14)


def _corner_to_corner(right_half: tuple[int, ...]) -> tuple[int, ...]:
    return right_half + mirrored(right_half[:-1])[::-1]


UPPER_LIP: Final = _corner_to_corner(_UPPER_OUTER) + _corner_to_corner(_UPPER_INNER)[::-1]
LOWER_LIP: Final = _corner_to_corner(_LOWER_OUTER) + _corner_to_corner(_LOWER_INNER)[::-1]
MOUTH: Final = _corner_to_corner(_UPPER_INNER) + _corner_to_corner(_LOWER_INNER)[1:-1][::-1]
"""Opening between the lips; its area is close to zero while the mouth is shut."""

RIGHT_IRIS: Final = (468, 469, 470, 471, 472)
"""Centre, then the rim to the picture's right, top, left and bottom."""

LEFT_IRIS: Final = (473, 474, 475, 476, 477)

_JAW_RIGHT: Final = (234, 93, 132, 58, 172, 136, 150, 176)
_EYE_68: Final = (33, 160, 158, 133, 153, 144)

LANDMARKS_68: Final = (
    *_JAW_RIGHT,
    152,
    *mirrored(_JAW_RIGHT)[::-1],
    *RIGHT_BROW[:5],
    *mirrored(RIGHT_BROW[:5])[::-1],
    *(168, 197, 5, 1),
    *(98, 97, 2, 326, 327),
    *_EYE_68,
    *(mirrored(_EYE_68)[index] for index in (3, 2, 1, 0, 5, 4)),
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),
    *(78, 81, 13, 311, 308, 402, 14, 178),
)
"""Mesh vertex of each of the 68 iBUG points.

This correspondence is our own: where iBUG defines a point anatomically (eye and mouth corners, nose tip and
base, chin) the vertex is that point; where it divides a curve evenly (jaw, lids, lips, bridge) the vertex is
the one nearest to the even division of the canonical mesh's curve. iBUG was annotated on pictures, the mesh
is a 3D surface: on a turned head the far jaw points lie on the surface and not on the visible outline.
"""

FIVE_POINTS: Final = (263, 362, 33, 133, 2)
"""Subject's left eye (outer, inner corner), right eye (outer, inner corner), base of the nose: dlib's five
points."""
