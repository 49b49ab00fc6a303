"""`orchard swap`: faces onto photographs, with the lake's student or teacher or a checkpoint by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assets.photo_swaps.annotation import CONDITION, IDENTITY, Annotator
from assets.photo_swaps.checkpoints import load_swapper, swaps_config
from assets.photo_swaps.run import swap_many, swap_one
from assets.photo_swaps.swapper import PhotoSwapper
from assets.stage import StageGraph
from pipeline.commands.swap_alone import need_alone, open_alone
from pipeline.commands.swap_folders import apple_folder
from pipeline.commands.swap_options import (
    APPLE,
    CLIP,
    PHOTO,
    SAMPLING,
    ConditionOption,
    Crop,
    IdScaleOption,
    ImageScaleOption,
    InverseConditionOption,
    InverseStepsOption,
    Method,
    ScaleOption,
    SecondOrderOption,
    SwapFlags,
    SwapPlace,
    flag,
    refuse_alone,
    two_places,
)
from pipeline.commands.swap_telling import tell_clip, tell_many
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    ConsentOption,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
    RecipeOption,
    UsageError,
    find_profile,
    find_view,
    need_consent,
    open_lake,
    print_json,
    say,
)
from pipeline.weights_gate import require_weights
from resources.lake.lake import Lake


def swap_command(
    source: Annotated[
        Path | None, typer.Argument(help="Photograph that gives the identity, or a folder of them.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            help="Photograph or clip that gives everything else, or a folder with the same file stems."
        ),
    ] = None,
    source_option: Annotated[
        Path | None, typer.Option("--source", help="SOURCE, by name instead of by place.")
    ] = None,
    target_option: Annotated[
        Path | None, typer.Option("--target", help="TARGET, by name instead of by place.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="PNG to write, of a clip MP4 (swap.png, swap.mp4 unless given); or folder of many pairs.",
        ),
    ] = None,
    consent: ConsentOption = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="Which model swaps. Unless given: teacher_inversion with a flag about inversion, teacher "
            "with --condition_type, else student."
        ),
    ] = None,
    faces: Annotated[
        str | None,
        flag(
            "--faces",
            panel=PHOTO,
            help="Faces of the target: largest (the default), all, index:N (from 0, left to right; index:0,2 "
            "for several) or closest:PHOTO, the face most like the one in PHOTO.",
        ),
    ] = None,
    source_face: Annotated[
        str | None,
        flag(
            "--source-face",
            panel=PHOTO,
            help="Face of the source: largest, index:N or closest:PHOTO. The profile's choice unless given.",
        ),
    ] = None,
    raw_frame: Annotated[
        bool | None,
        typer.Option(
            "--raw-frame/--photo",
            rich_help_panel=PHOTO,
            help="Squeeze the whole target to the model's square and give that square, as APPLE's scripts "
            "do. The default is --photo, and --raw-frame with --ffhq_base_path.",
        ),
    ] = None,
    crop: Annotated[
        Crop | None, flag("--crop", panel=PHOTO, help="Frame of the aligned crops; ffhq unless given.")
    ] = None,
    feather: Annotated[
        float | None,
        flag(
            "--feather",
            panel=PHOTO,
            min=0.0,
            help="Width of the fade inside a pasted face's edge, in distances between its eyes; 0.2 unless "
            "given.",
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid",
            rich_help_panel=PHOTO,
            help="Also write source, (after inversion: target,) condition and result side by side.",
        ),
    ] = False,
    save_mask: Annotated[
        bool,
        flag("--save-mask", panel=PHOTO, help="Also write where the result may differ from the target."),
    ] = False,
    masked_source: Annotated[
        bool,
        flag(
            "--masked-source",
            panel=PHOTO,
            help="Embed the source with all but its face black, as in training with PuLID. APPLE swaps with "
            "unmasked sources, and so do we unless asked.",
        ),
    ] = False,
    lossless: Annotated[
        bool,
        flag(
            "--lossless",
            panel=CLIP,
            help="Write the clip's pictures to the bit (H.264 in RGB, large) instead of visually lossless.",
        ),
    ] = False,
    condition_type: ConditionOption = None,
    guidance_scale: ScaleOption = None,
    image_guidance_scale: ImageScaleOption = None,
    id_guidance_scale: IdScaleOption = None,
    steps: Annotated[
        int | None, flag("--steps", panel=SAMPLING, min=1, help="Sampling steps. The profile's unless given.")
    ] = None,
    inverse_steps: InverseStepsOption = None,
    inverse_cond: InverseConditionOption = None,
    second_order: SecondOrderOption = False,
    seed: Annotated[
        int, flag("--seed", panel=SAMPLING, min=0, help="Decides the noise, with the target's name.")
    ] = 0,
    ffhq_base_path: Annotated[
        Path | None,
        flag("--ffhq_base_path", panel=APPLE, help="Tree with src/<stem>.jpg and trg/<same stem>.jpg."),
    ] = None,
    render_conditions: Annotated[
        bool,
        flag(
            "--render-conditions",
            panel=APPLE,
            help="Draw condition images even where the FFHQ tree holds the folder of --condition_type.",
        ),
    ] = False,
    checkpoint_path: Annotated[
        Path | None,
        flag(
            "--checkpoint_path",
            panel=APPLE,
            help="Folder with default.safetensors, APPLE's or ours, instead of the lake's checkpoint.",
        ),
    ] = None,
    model_id: Annotated[
        str | None,
        flag("--model_id", panel=APPLE, help="Base: folder or file, weight role, or published repository."),
    ] = None,
    base_path: Annotated[
        Path | None,
        flag(
            "--base_path", panel=APPLE, help="Results go to results/... below it, named as in the original."
        ),
    ] = None,
    run_name: Annotated[
        str | None, flag("--run_name", panel=APPLE, help="First part of that folder's name.")
    ] = None,
    ckpt: Annotated[str | None, flag("--ckpt", panel=APPLE, help="Second part of it.")] = None,
    use_gaze: Annotated[
        bool, flag("--use_gaze", panel=APPLE, help="Refused: no published checkpoint has a gaze embedding.")
    ] = False,
    diffface: Annotated[
        list[str] | None,
        flag("--diffface", panel=SAMPLING, help="NAME=VALUE, an argument of `orchard diffface`; repeatable."),
    ] = None,
    recipe: RecipeOption = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Swap the face of SOURCE onto faces of TARGET: a pair, a clip, two folders, or an FFHQ tree.

    TARGET may be any photograph. Its faces are found, cut out aligned, swapped, and put back with a fade;
    every pixel outside the faces stays as it was, and the result has TARGET's size. With folders, results
    that are there already and were made from the same photographs with the same settings are skipped; a pair
    that cannot be swapped is recorded in the folder's manifest.jsonl, and the exit code is 1. In a clip the
    chosen faces are followed from their first frame on; a killed run is taken up where it stopped.

    The result says in its own metadata (IPTC digitalSourceType) that a model made it, which one, and your
    statement of consent. Swapping somebody's face without their consent can be a crime; the statement is
    required.
    """
    statement = need_consent(consent)
    source, target = two_places((source, target), source_option, target_option)
    place = SwapPlace(
        source, target, out, base_path, ffhq_base_path, run_name, ckpt, render_conditions=render_conditions
    )
    clip = place.clip
    many = not clip and place.many
    if lossless and not clip:
        raise UsageError("--lossless is about clips; photographs are always written without loss")
    settings = SwapFlags(
        method=method,
        condition_type=condition_type,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
        id_guidance_scale=id_guidance_scale,
        steps=steps,
        inverse_steps=inverse_steps,
        inverse_cond=inverse_cond,
        second_order=second_order,
        use_gaze=use_gaze,
        raw_frame=raw_frame,
        faces=faces,
        source_face=source_face,
        crop=crop,
        feather=feather,
        masked_source=masked_source,
        seed=seed,
    ).settings(ffhq=ffhq_base_path is not None)
    if settings.raw_frame and save_mask:
        raise UsageError("--save-mask: a raw frame is replaced as a whole and has no mask")
    if clip and (settings.raw_frame or grid or save_mask):
        raise UsageError("--raw-frame, --grid and --save-mask are for photographs, not for clips")
    alone = settings.stands_alone
    if alone:
        places = {"--checkpoint_path": checkpoint_path, "--model_id": model_id, "--base_path": base_path}
        places |= {"--recipe": recipe}
        refuse_alone(settings.method, places)
    if diffface and settings.method != "diffface":
        raise UsageError("--diffface belongs to --method diffface")
    opened = Lake.locate(lake) if alone else open_lake(lake)  # what stands alone reads nothing of it
    view = find_view(profile, recipe)
    recipes = [] if view.recipe is None else [view.recipe]
    graph = need_alone(profile, settings) if alone else _graph(profile, model_id, recipes)
    pairs, conditions = place.pairs(settings)
    say(conditions)
    annotator = Annotator(opened, graph, masked_source=settings.masked_source, device=device, report=say)
    if alone:
        swapper = open_alone(
            annotator, graph, settings, diffface or [], profile, device, grid=grid, report=say
        )
    else:
        loaded = load_swapper(
            opened,
            graph,
            settings,
            checkpoint=checkpoint_path,
            model_id=model_id,
            device=device,
            report=say,
            view=view,
        )
        swapper = PhotoSwapper(annotator, graph, loaded, settings, grid=grid, view=view)
    if clip:
        from assets.photo_swaps.clips import swap_clip  # FFmpeg's libraries are for clips alone

        assert source is not None  # `place.clip` has looked
        assert target is not None
        written = out or Path("swap.mp4")
        made = swap_clip(swapper, source, target, written, statement, lossless=lossless, report=say)
        tell_clip(made, written, as_json=json)
        return
    if not many:
        written = out or Path("swap.png")
        mark, made = swap_one(swapper, pairs[0], written, statement, mask=save_mask)
        told = {
            "out": str(written),
            **mark.model_dump(mode="json"),
            "faces": [face.summary() for face in made.faces],
        }
        if json:
            print_json(told)
        else:
            typer.echo(f"{written}, made by {mark.model_id}, marked as {mark.stage}")
        return
    folder = out if out is not None and base_path is None else apple_folder(place, swapper, settings)
    summary = swap_many(swapper, pairs, folder, statement, mask=save_mask, report=say)
    tell_many(summary, folder, as_json=json)
    if summary.failed:
        raise typer.Exit(1)


def _graph(name: str, model_id: str | None, recipes: list[str]) -> StageGraph:
    """The profile's stages; model files are asked for as far as swapping needs them."""
    graph = find_profile(name).graph(recipes)
    roles = {role for stage in graph.needed_for([IDENTITY, CONDITION]).stages for role in stage.weights}
    if model_id is None:
        roles |= set(swaps_config(graph).base.roles)
    require_weights(name, sorted(roles))
    return graph
