"""DiffFace's swapper: denoiser, schedule and experts behind one call, for any number of pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffface.blending import composite, parsed_alpha, to_pixels
from models.diffface.denoiser import Denoiser
from models.diffface.experts.expert import Expert, Prepared, SwapPair
from models.diffface.experts.identity import IdentityExpert
from models.diffface.experts.parsing import ParsingExpert
from models.diffface.panels import Figure, shows_figure, six_panels
from models.diffface.randomness import Draw
from models.diffface.respacing import respaced
from models.diffface.sampling import SamplingInputs, sample
from models.diffface.schedule import NoiseSchedule
from models.diffface.settings import DiffFaceSettings
from models.diffface.swap_inputs import SwapInputs
from models.diffface.swap_results import RepeatResult, SwapResult
from models.faces.images import Points

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ready:
    """A pair of the call, and what every expert prepared for it, in the order of the experts."""

    row: int
    pair: SwapPair
    prepared: tuple[Prepared, ...]


class DiffFaceSwapper:
    """Swaps faces where the denoiser is.

    Args:
        denoiser: set to evaluation mode and frozen here.
        schedule: of the original steps; each call respaces it.
        experts: any of `models.diffface.experts`, under different names, on the denoiser's device. An
            `IdentityExpert` also measures distances, without which repeats are not ranked; figures, and a
            background that is not enforced, need a `ParsingExpert`.
        guidance_scale: factor on all experts' weights, for a denoiser of another size than the published one,
            for which the weights' defaults are made.

    Raises:
        ValueError: two experts of one name.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        experts: Sequence[Expert],
        guidance_scale: float = 1.0,
    ) -> None:
        names = [expert.name for expert in experts]
        if len(set(names)) < len(names):
            raise ValueError(f"experts must have names of their own, got {names}")
        self._denoiser = denoiser.eval().requires_grad_(requires_grad=False)
        self._device = next(denoiser.parameters()).device
        self._schedule = schedule
        self._experts = tuple(experts)
        self._guidance_scale = guidance_scale
        self._measure = next((expert for expert in experts if isinstance(expert, IdentityExpert)), None)
        self._parsing = next((e.parsing for e in experts if isinstance(e, ParsingExpert)), None)

    def swap(
        self,
        sources_NHWC: NDArray[np.uint8],
        identity_ND: NDArray[np.floating],
        targets_NHWC: NDArray[np.uint8],
        masks_NHW: NDArray[np.bool_],
        settings: DiffFaceSettings,
        seeds: Sequence[int] | None = None,
        *,
        target_landmarks: Sequence[Points | None] | None = None,
        source_landmarks: Sequence[Points | None] | None = None,
        figures: bool = False,
    ) -> SwapResult:
        """Swap all pairs; arguments as of `SwapInputs`, results and errors as of `stream`.

        Args:
            seeds: a number for each pair, which with `settings.seed` decides its random numbers; 0, 1, ...
                when left out.
        """
        inputs = SwapInputs(
            sources_NHWC,
            identity_ND,
            targets_NHWC,
            masks_NHW,
            range(len(sources_NHWC)) if seeds is None else seeds,
            target_landmarks,
            source_landmarks,
        )
        rows: list[list[RepeatResult]] = [[] for _ in sources_NHWC]
        for result in self.stream(inputs, settings, figures=figures):
            rows[result.row].append(result)
        return SwapResult(rows)

    def stream(
        self, inputs: SwapInputs, settings: DiffFaceSettings, *, figures: bool = False
    ) -> Iterator[RepeatResult]:
        """Give `iterations_num` repeats of pair after pair, computed `batch_size` at a time.

        A repeat depends on its pair, the pair's number and its own; in another batch it is the same up to
        rounding. Where the background is enforced, pixels outside the mask are the target's exactly.

        Args:
            inputs: N pairs.
            settings: everything that can be set.
            figures: also draw six-panel figures.

        Raises:
            ValueError: inputs that do not fit the denoiser or an expert, a device the denoiser is not on, a
                parse that is needed without a `ParsingExpert`, or a respacing that does not exist.
        """
        config = self._denoiser.config
        inputs.check(config.image_size, config.identity_dim)
        if torch.device(settings.requested_device) != self._device:
            raise ValueError(
                f"the settings ask for {settings.requested_device} and the denoiser is on {self._device}; "
                "load it there, or set device or gpu_id to where it is"
            )
        if self._parsing is None and (settings.no_enforce_background or figures):
            what = "figures need" if figures else "no_enforce_background needs"
            raise ValueError(f"{what} the parse of pictures; give the swapper a ParsingExpert")
        schedule = respaced(self._schedule, settings.timestep_respacing)
        return self._stream(inputs, settings, schedule, figures=figures)

    def _stream(
        self, inputs: SwapInputs, settings: DiffFaceSettings, schedule: NoiseSchedule, *, figures: bool
    ) -> Iterator[RepeatResult]:
        repeats = [
            (row, repeat)
            for row in range(len(inputs.sources_NHWC))
            for repeat in range(settings.iterations_num)
        ]
        ready: dict[int, _Ready] = {}
        for start in range(0, len(repeats), settings.batch_size):
            batch = repeats[start : start + settings.batch_size]
            # what was prepared for a pair serves its repeats in the next batches, and is let go after them
            ready = {row: ready.get(row) or self._prepare(inputs, row, settings) for row, _ in batch}
            yield from self._batch(inputs, settings, schedule, ready, batch, figures=figures)

    def _prepare(self, inputs: SwapInputs, row: int, settings: DiffFaceSettings) -> _Ready:
        with torch.inference_mode(mode=False), torch.no_grad():
            pair = inputs.pair(row, self._device)
            prepared = tuple(expert.prepare(pair, settings) for expert in self._experts)
        for kept in prepared:
            if kept.note is not None:
                logger.info("pair %d: %s", inputs.row_numbers[row], kept.note)
        if self._measure is not None and settings.compat.nearest_identity_crop:
            # there the denoiser, too, gets what the unaligned source looks like
            reference = prepared[self._experts.index(self._measure)].tensors["reference"]
            if reference.shape == pair.identity_D.shape:
                pair = replace(pair, identity_D=reference)
        return _Ready(row, pair, prepared)

    def _batch(
        self,
        inputs: SwapInputs,
        settings: DiffFaceSettings,
        schedule: NoiseSchedule,
        ready: dict[int, _Ready],
        batch: Sequence[tuple[int, int]],
        *,
        figures: bool,
    ) -> Iterator[RepeatResult]:
        rows = [row for row, _ in batch]
        swaps = [ready[row] for row in rows]
        experts = [
            (expert, [swap.prepared[place] for swap in swaps]) for place, expert in enumerate(self._experts)
        ]
        drawn: list[list[Figure]] = [[] for _ in batch]

        def watch(taken: int, index: int, predicted_BCHW: Tensor) -> None:
            if shows_figure(taken, settings.steps):
                shown = self._finish(inputs, rows, predicted_BCHW, settings)
                self._draw(inputs, rows, shown, settings, index, drawn)

        with torch.inference_mode(mode=False):
            batch_inputs = SamplingInputs(
                targets_BCHW=torch.stack([swap.pair.target_3HW for swap in swaps]) * 2 - 1,
                masks_B1HW=torch.stack([swap.pair.mask_1HW for swap in swaps]),
                identity_BD=torch.stack([swap.pair.identity_D for swap in swaps]),
                draws=[Draw(settings.seed, inputs.row_numbers[row], repeat) for row, repeat in batch],
            )
        sampled = sample(
            self._denoiser,
            schedule,
            experts,
            batch_inputs,
            settings,
            watch if figures else None,
            self._guidance_scale,
        )
        images = self._finish(inputs, rows, sampled.x_BCHW, settings)
        for place, reason in enumerate(sampled.reasons):
            if reason is not None:
                images[place] = inputs.targets_NHWC[rows[place]]
        if figures:
            self._draw(inputs, rows, images, settings, None, drawn)
        distances = self._distances(images, swaps, settings)
        for place, (row, repeat) in enumerate(batch):
            reason = sampled.reasons[place]
            if reason is not None:
                number = inputs.row_numbers[row]
                logger.warning("pair %d, repeat %d: %s: %s", number, repeat, reason, reason.advice)
            yield RepeatResult(
                row=row,
                repeat=repeat,
                image_HWC=images[place],
                distance=float("nan") if reason is not None else distances[place],
                reason=reason,
                notes=tuple(kept.note for kept in swaps[place].prepared if kept.note is not None),
                figures=tuple(drawn[place]),
            )

    def _finish(
        self, inputs: SwapInputs, rows: Sequence[int], x_BCHW: Tensor, settings: DiffFaceSettings
    ) -> NDArray[np.uint8]:
        """Pictures over their targets: by the targets' masks, or by their own parse."""
        swapped = to_pixels(x_BCHW)
        targets = np.stack([inputs.targets_NHWC[row] for row in rows])
        if not settings.no_enforce_background:
            return composite(swapped, targets, np.stack([inputs.masks_NHW[row] for row in rows]))
        alpha = parsed_alpha(self._codes(swapped, settings), settings)
        return composite(swapped, targets, alpha[:, 0].cpu().numpy())

    def _codes(self, images_BHWC: NDArray[np.uint8], settings: DiffFaceSettings) -> Tensor:
        """Class codes (B, H, W) of finished pictures."""
        if self._parsing is None:
            raise ValueError("the parse of pictures needs a ParsingExpert")
        double = settings.compat.double_parser_normalisation
        return self._parsing.codes(self._unit(images_BHWC), double_normalisation=double)

    def _unit(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(images_BHWC)).to(self._device)
        return pixels.permute(0, 3, 1, 2).float() / 255

    def _distances(
        self, images_BHWC: NDArray[np.uint8], swaps: Sequence[_Ready], settings: DiffFaceSettings
    ) -> list[float]:
        if self._measure is None:
            return [float("nan")] * len(swaps)
        place = self._experts.index(self._measure)
        prepared = [swap.prepared[place] for swap in swaps]
        return self._measure.distance_B(self._unit(images_BHWC), prepared, settings).tolist()

    def _draw(
        self,
        inputs: SwapInputs,
        rows: Sequence[int],
        images_BHWC: NDArray[np.uint8],
        settings: DiffFaceSettings,
        index: int | None,
        drawn: Sequence[list[Figure]],
    ) -> None:
        targets = np.stack([inputs.targets_NHWC[row] for row in rows])
        target_codes = self._codes(targets, settings).cpu().numpy()
        codes = self._codes(images_BHWC, settings).cpu().numpy()
        for place, row in enumerate(rows):
            image = six_panels(
                inputs.sources_NHWC[row],
                inputs.targets_NHWC[row],
                inputs.masks_NHW[row],
                target_codes[place],
                codes[place],
                images_BHWC[place],
            )
            drawn[place].append(Figure(image, index))
