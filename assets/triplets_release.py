"""`triplets_release`: all triplet shards pinned as one version, in front of the student."""

from __future__ import annotations

from assets.stage import ArtifactStage, Input, NoConfig, StageContext
from resources.lake.digest import digest_json
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact
from resources.lake.schema import Status

CODE_VERSION = "1"


def triplets_release_stage() -> ArtifactStage:
    """The stage `triplets_release`: a Lance tag and the digest of every triplet that is ok."""
    return ArtifactStage(
        name="triplets_release",
        code_version=CODE_VERSION,
        description="The pseudo triplets of one training round, pinned as a Lance tag.",
        config=NoConfig(),
        inputs=(Input("pseudo_triplets"),),
        build=_build,
    )


def _build(context: StageContext, fingerprint: bytes) -> Artifact:
    snapshot = context.lake.triplets.snapshot()
    state = "pseudo_triplets_state"
    rows = snapshot.scan(["pair_id", f"{state}.status", f"{state}.digest"])
    keys, statuses, digests = (rows[name].to_pylist() for name in rows.schema.names[:3])
    good = sorted(
        (key, digest.hex())
        for key, status, digest in zip(keys, statuses, digests, strict=True)
        if status == Status.OK.value
    )
    if not good:
        raise LakeError(f"none of {len(keys)} pseudo triplets is ok; `orchard status` tells why")
    digest = digest_json(good)
    tag = f"triplets-{digest.hex()[:12]}"
    context.lake.triplets.tag(tag, snapshot.version)
    return Artifact(
        stage="triplets_release",
        fingerprint=fingerprint,
        digest=digest,
        code_version=CODE_VERSION,
        metadata={"version": snapshot.version, "tag": tag, "triplets": len(good), "rows": len(keys)},
    )
