"""The named parameters of the face world: who somebody is, and how the photograph was taken.

Two tables name every number. An *identity* row holds what belongs to the person and is carried over by
a face swap; an *attribute* row holds everything else and stays with the target photograph. Rows are float32
matrices to the outside (good for networks and files) and structured records inside the renderer, where
`identity.jaw_width` is a name and not a column number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Parameter(NamedTuple):
    """One named number with its closed range and its meaning."""

    name: str
    low: float
    high: float
    meaning: str


# One face unit is about half the height of a head; x runs to the right of the picture, y up, z to the camera.
IDENTITY_PARAMETERS: tuple[Parameter, ...] = (
    Parameter("jaw_width", 0.48, 0.80, "half width of the jaw, face units"),
    Parameter("cheek_width", 0.74, 0.87, "half width at the cheekbones, face units"),
    Parameter("forehead_width", 0.72, 0.88, "half width of the forehead, face units"),
    Parameter("chin_length", 0.90, 1.15, "distance from the head's centre down to the chin, face units"),
    Parameter("chin_prominence", 0.00, 0.20, "how far the chin stands out, face units"),
    Parameter("cheek_prominence", -0.02, 0.14, "how far the cheekbones stand out, face units"),
    Parameter("eye_spacing", 0.280, 0.395, "distance from the middle line to an eye's centre, face units"),
    Parameter("eye_width", 0.122, 0.210, "half width of an eye, face units"),
    Parameter("eye_height", 0.054, 0.114, "half height of the open eye, face units"),
    Parameter("eye_tilt", -0.24, 0.24, "slope of the eye's axis, positive with the outer corner up"),
    Parameter("eye_level", 0.06, 0.18, "height of the eyes, face units"),
    Parameter("brow_thickness", 0.013, 0.072, "half thickness of a brow, face units"),
    Parameter("brow_tilt", -0.32, 0.32, "slope of a brow, positive with the outer end up"),
    Parameter("brow_arch", 0.00, 0.12, "how far a brow's middle rises above its ends, face units"),
    Parameter("brow_strength", 0.35, 1.00, "opacity of the brow hair"),
    Parameter("brow_distance", 0.150, 0.250, "height of a brow above its eye, face units"),
    Parameter("brow_ridge", 0.00, 0.09, "how far the brow ridge stands out, face units"),
    Parameter("nose_length", 0.36, 0.52, "distance from eye level down to the nose tip, face units"),
    Parameter("nose_width", 0.078, 0.200, "half width of the nose at its wings, face units"),
    Parameter("nose_prominence", 0.17, 0.31, "how far the nose tip stands out, face units"),
    Parameter("nose_bridge", 0.03, 0.15, "how far the nose's root stands out, face units"),
    Parameter("mouth_width", 0.172, 0.345, "half width of the relaxed mouth, face units"),
    Parameter("upper_lip", 0.016, 0.090, "thickness of the upper lip, face units"),
    Parameter("lower_lip", 0.026, 0.108, "thickness of the lower lip, face units"),
    Parameter("mouth_distance", 0.225, 0.325, "distance from the nose tip down to the mouth, face units"),
    Parameter("iris_hue", 0.0, 1.0, "iris colour along brown, amber, green, blue, grey"),
    Parameter("iris_lightness", 0.60, 1.40, "brightness of the iris"),
    Parameter("stubble", -0.80, 0.95, "density of the shaven beard; below zero is none"),
    Parameter("freckles", -0.80, 0.90, "density of freckles; below zero is none"),
    Parameter("folds", -0.05, 0.34, "depth of the folds from nose to mouth; below zero is none"),
    Parameter("eye_bags", -0.10, 0.30, "depth of the shade under the eyes; below zero is none"),
    Parameter("first_mole_x", -0.46, 0.46, "place of the first mole, face units"),
    Parameter("first_mole_y", -0.66, -0.06, "place of the first mole, face units"),
    Parameter("second_mole_x", -0.46, 0.46, "place of the second mole, face units"),
    Parameter("second_mole_y", -0.30, 0.62, "place of the second mole, face units"),
    Parameter("second_mole_size", -0.030, 0.034, "radius of the second mole; below zero is none"),
    Parameter("ear_size", 0.80, 1.25, "size of the ears, times the usual"),
    Parameter("skin_seed", -1.0, 1.0, "seed of the skin's fine pattern (freckles, stubble, mottling)"),
)

ATTRIBUTE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter("yaw", -0.62, 0.62, "turn of the head, radians, positive to the right of the picture"),
    Parameter("pitch", -0.30, 0.30, "nod of the head, radians, positive with the chin towards the chest"),
    Parameter("roll", -0.22, 0.22, "tilt of the head, radians, positive counter-clockwise in the picture"),
    Parameter("shift_x", -0.03, 0.03, "shift of the head to the right, share of the picture"),
    Parameter("shift_y", -0.03, 0.03, "shift of the head down, share of the picture"),
    Parameter("scale", 0.92, 1.06, "size of the head, times the usual"),
    Parameter("mouth_open", 0.0, 1.0, "opening of the mouth"),
    Parameter("smile", -0.5, 1.0, "corners of the mouth, down to up"),
    Parameter("brow_raise", -0.5, 1.0, "height of the brows, lowered to raised"),
    Parameter("frown", 0.0, 1.0, "inner ends of the brows drawn down"),
    Parameter("blink", 0.0, 0.9, "closing of the eyelids"),
    Parameter("gaze_x", -1.0, 1.0, "direction of the gaze, left to right of the picture"),
    Parameter("gaze_y", -0.6, 0.6, "direction of the gaze, down to up"),
    Parameter("light_azimuth", -1.3, 1.3, "direction of the key light, radians, positive from the right"),
    Parameter("light_elevation", -0.2, 0.9, "height of the key light, radians"),
    Parameter("ambient", 0.22, 0.60, "share of light from all around"),
    Parameter("light_red", 0.7, 1.3, "key light, red"),
    Parameter("light_green", 0.7, 1.3, "key light, green"),
    Parameter("light_blue", 0.7, 1.3, "key light, blue"),
    Parameter("skin_red", 0.08, 1.0, "skin tone, red"),
    Parameter("skin_green", 0.08, 1.0, "skin tone, green"),
    Parameter("skin_blue", 0.08, 1.0, "skin tone, blue"),
    Parameter("lipstick", 0.0, 1.0, "opacity of the lipstick"),
    Parameter("lipstick_red", 0.0, 1.0, "lipstick, red"),
    Parameter("lipstick_green", 0.0, 1.0, "lipstick, green"),
    Parameter("lipstick_blue", 0.0, 1.0, "lipstick, blue"),
    Parameter("eye_shadow", 0.0, 1.0, "opacity of the eye shadow"),
    Parameter("eye_shadow_red", 0.0, 1.0, "eye shadow, red"),
    Parameter("eye_shadow_green", 0.0, 1.0, "eye shadow, green"),
    Parameter("eye_shadow_blue", 0.0, 1.0, "eye shadow, blue"),
    Parameter("blush", 0.0, 1.0, "opacity of the blusher"),
    Parameter("glasses", 0.0, 2.0, "0 none, 1 round, 2 rectangular"),
    Parameter("glasses_red", 0.0, 1.0, "glasses frame, red"),
    Parameter("glasses_green", 0.0, 1.0, "glasses frame, green"),
    Parameter("glasses_blue", 0.0, 1.0, "glasses frame, blue"),
    Parameter("hair_style", 0.0, 3.0, "0 short, 1 side parting, 2 long with fringe, 3 long and open"),
    Parameter("hair_red", 0.0, 1.0, "hair, red"),
    Parameter("hair_green", 0.0, 1.0, "hair, green"),
    Parameter("hair_blue", 0.0, 1.0, "hair, blue"),
    Parameter("background_red", 0.0, 1.0, "background, red"),
    Parameter("background_green", 0.0, 1.0, "background, green"),
    Parameter("background_blue", 0.0, 1.0, "background, blue"),
    Parameter("background_contrast", 0.0, 0.5, "strength of the background's soft shapes"),
    Parameter("background_seed", 0.0, 1.0, "seed of the background's soft shapes"),
    Parameter("cloth_red", 0.0, 1.0, "clothes, red"),
    Parameter("cloth_green", 0.0, 1.0, "clothes, green"),
    Parameter("cloth_blue", 0.0, 1.0, "clothes, blue"),
    Parameter("crop", 0.0, 2.0, "how much the picture shows: 0 face, 1 portrait, 2 bust"),
    Parameter("occluder", 0.0, 3.0, "what covers part of the face: 0 nothing, 1 hand, 2 microphone, 3 scarf"),
    Parameter("occluder_side", -1.0, 1.0, "side of the picture from which the occluder comes, left to right"),
    Parameter("occluder_height", 0.0, 1.0, "how far up the occluder reaches, low to high"),
    Parameter("occluder_red", 0.0, 1.0, "microphone or scarf, red"),
    Parameter("occluder_green", 0.0, 1.0, "microphone or scarf, green"),
    Parameter("occluder_blue", 0.0, 1.0, "microphone or scarf, blue"),
)

IDENTITY_NAMES = tuple(parameter.name for parameter in IDENTITY_PARAMETERS)
ATTRIBUTE_NAMES = tuple(parameter.name for parameter in ATTRIBUTE_PARAMETERS)
IDENTITY_DTYPE = np.dtype([(name, np.float32) for name in IDENTITY_NAMES])
ATTRIBUTE_DTYPE = np.dtype([(name, np.float32) for name in ATTRIBUTE_NAMES])


@dataclass(frozen=True)
class _ParameterRows:
    """Rows of named float32 numbers, checked once against the table of their class."""

    values: NDArray[np.float32]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    normalised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        kind = type(self).__name__
        if values.ndim != 2 or values.shape[1] != len(self.parameters):
            raise ValueError(f"{kind} needs shape (N, {len(self.parameters)}), got {values.shape}")
        low, high = self._bounds()
        bad = ~((values >= low - 1e-6) & (values <= high + 1e-6))
        if bad.any():
            row, column = (int(index) for index in np.argwhere(bad)[0])
            raise ValueError(
                f"{kind} row {row}: {self.parameters[column].name} = {values[row, column]} lies outside "
                f"[{low[column]:g}, {high[column]:g}]"
            )
        object.__setattr__(self, "values", values)

    @classmethod
    def _bounds(cls) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if cls.normalised:
            return -np.ones(len(cls.parameters), np.float32), np.ones(len(cls.parameters), np.float32)
        low = np.array([parameter.low for parameter in cls.parameters], np.float32)
        return low, np.array([parameter.high for parameter in cls.parameters], np.float32)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: int | slice | NDArray[np.integer] | list[int]) -> Self:
        """The chosen rows as a new table; a single number gives a table of one row."""
        return type(self)(self.values[[rows] if isinstance(rows, int | np.integer) else rows])

    def column(self, name: str) -> NDArray[np.float32]:
        """One parameter of every row, shape (N,)."""
        return self.values[:, [parameter.name for parameter in self.parameters].index(name)]

    def replace(self, **columns: float | NDArray[np.floating]) -> Self:
        """A copy with the named parameters set to a number or to one number per row."""
        values = self.values.copy()
        names = [parameter.name for parameter in self.parameters]
        for name, value in columns.items():
            if name not in names:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}")
            values[:, names.index(name)] = value
        return type(self)(values)


class Identities(_ParameterRows):
    """Who the people are: `values` float32 (N, I), each number scaled to [-1, 1] over its table range."""

    parameters = IDENTITY_PARAMETERS
    normalised = True

    def records(self) -> NDArray[np.void]:
        """The rows in face units, shape (N,), dtype `IDENTITY_DTYPE`."""
        low = np.array([parameter.low for parameter in self.parameters], np.float32)
        high = np.array([parameter.high for parameter in self.parameters], np.float32)
        physical = low + (self.values + np.float32(1)) * np.float32(0.5) * (high - low)
        return np.ascontiguousarray(physical).view(IDENTITY_DTYPE)[:, 0]


class Attributes(_ParameterRows):
    """How the photographs are taken: `values` float32 (N, K) in the units of `ATTRIBUTE_PARAMETERS`."""

    parameters = ATTRIBUTE_PARAMETERS

    def records(self) -> NDArray[np.void]:
        """The rows as records, shape (N,), dtype `ATTRIBUTE_DTYPE`."""
        return self.values.view(ATTRIBUTE_DTYPE)[:, 0]
