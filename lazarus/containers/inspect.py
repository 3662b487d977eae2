"""`inspect` of a container: docker's words where docker has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazarus.containers import chain
from lazarus.containers.checkpoints import standing
from lazarus.containers.rootfs import hostname_of
from lazarus.runtime.log import timestamp
from lazarus.terms import Json

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.volumes.mounts import VolumeMount


def inspect(container: Container) -> Json:
    """See `Container.inspect`."""
    settings = container.settings
    state = container.state
    return {
        "Id": container.id,
        "Name": container.name,
        "Created": timestamp(int(container.created * 1e9)),
        "Image": settings.image_id,
        "ImageName": settings.image,
        "ImageDigest": str(container.manifest_digest),
        "ChainId": str(container.chain_id),
        "State": {
            "Status": state.status,
            "Running": state.status == "running",
            "Pid": state.process.pid if state.status == "running" else 0,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started,
            "FinishedAt": state.finished,
        },
        "Config": {
            "Hostname": hostname_of(container.id, settings),
            "User": settings.user,
            "Env": [*settings.image_env, *settings.env],
            "Cmd": list(settings.args),
            "WorkingDir": settings.cwd,
            "Labels": dict(settings.labels),
            "StopSignal": settings.stop_signal,
            "Tty": settings.terminal,
            "OpenStdin": settings.interactive,
        },
        "HostConfig": {
            "NetworkMode": settings.network,
            "Binds": [f"{bind.source}:{bind.target}{':ro' if bind.read_only else ''}" for bind in settings.binds]
            + [f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in settings.volumes],
            "Tmpfs": {
                mount.target: ",".join(
                    [*(["ro"] if mount.read_only else [])]
                    + ([] if mount.size is None else [f"size={mount.size}"])
                    + ([] if mount.mode is None else [f"mode={mount.mode:o}"])
                )
                for mount in settings.tmpfs
            },
            "AutoRemove": settings.auto_remove,
            "ReadonlyRootfs": settings.read_only,
            "StorageOpt": {} if settings.size is None else {"size": str(settings.size)},
            "Ephemeral": settings.ephemeral,
        },
        "Mounts": [
            *(
                {"Type": "bind", "Source": bind.source, "Destination": bind.target, "RW": not bind.read_only}
                for bind in settings.binds
            ),
            *(
                {
                    "Type": "volume",
                    "Name": mount.source,
                    "Source": _shown(container, mount),
                    "Destination": mount.target,
                    "Driver": "local",
                    "RW": not mount.read_only,
                    "SubPath": mount.subpath,
                }
                for mount in settings.volumes
            ),
            *(
                {
                    "Type": "image",
                    "Source": mount.source,
                    "Destination": mount.target,
                    "RW": mount.writable,
                    "SubPath": mount.subpath,
                    "UpperDir": f"{container.store.paths.container(mount.part)}/upper" if mount.writable else "",
                }
                for mount in settings.images
            ),
            *(
                {"Type": "tmpfs", "Source": "", "Destination": mount.target, "RW": not mount.read_only}
                for mount in settings.tmpfs
            ),
        ],
        "Checkpoint": _standing(container),
        "GraphDriver": {
            "Name": "lazarus",
            "Data": {
                "UpperDir": f"{container.directory}/upper",
                "WorkDir": f"{container.directory}/work",
                "MergedDir": container.rootfs,
                "Checkpoints": list(chain.uppers(container.store.paths, container.directory)),
                "Layers": [str(diff_id) for diff_id in settings.diff_ids],
            },
        },
        "LogPath": f"{container.directory}/log",
    }


def _shown(container: Container, mount: VolumeMount) -> str:
    """What of a volume is mounted."""
    volume = container.store.volumes.get(mount.name or "")
    return str(volume.get_snapshot(mount.snapshot).inspect()["Mountpoint"]) if mount.snapshot else volume.mountpoint


def _standing(container: Container) -> Json | None:
    """The checkpoint that it went on from."""
    key = standing(container)
    if key is None:
        return None
    container_id, _, name = key.partition("/")
    return {"Container": container_id, "Name": name}
