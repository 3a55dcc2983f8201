"""Meshes, and where the trainers put parameters and batches on them."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lossbench._typing import typed

Tree = TypeVar("Tree")


@typed
def make_mesh(
    axis_sizes: Sequence[int] | None = None,
    axis_names: Sequence[str] = ("batch",),
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Return a mesh with Auto axes, on which any loss is right for the global batch.

    (`jax.make_mesh` alone makes Explicit axes in jax 0.10, under which most operations that couple
    the rows of a batch raise.) Without `axis_sizes` the first axis takes all devices.

    Args:
        axis_sizes: devices along each axis; their product is the number of devices.
        axis_names: `fit` shards the batch over "batch", `sweep` its members over all axes.
        devices: those to use, `jax.devices()` by default.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.

    >>> make_mesh().axis_names
    ('batch',)
    """
    devices = jax.devices() if devices is None else devices
    sizes = (len(devices), *[1] * (len(axis_names) - 1)) if axis_sizes is None else axis_sizes
    if len(sizes) != len(axis_names) or np.prod(sizes) != len(devices):
        raise ValueError(
            f"axis_sizes {tuple(sizes)} for axes {tuple(axis_names)} do not fit "
            f"{len(devices)} devices"
        )
    auto = (AxisType.Auto,) * len(axis_names)
    return jax.make_mesh(tuple(sizes), tuple(axis_names), axis_types=auto, devices=devices)


def check_mesh(mesh: Mesh | None, batch_size: int | None = None) -> None:
    """Raise where `mesh` has Explicit axes or cannot split `batch_size` rows over "batch"."""
    if mesh is None:
        return
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"mesh needs Auto axes, got {mesh.axis_types}: use lossbench.train.make_mesh"
        )
    if batch_size is None:
        return
    if "batch" not in mesh.axis_names:
        raise ValueError(f"mesh needs an axis named 'batch', got {mesh.axis_names}")
    if batch_size % mesh.shape["batch"]:
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of the {mesh.shape['batch']} devices "
            "along the mesh's 'batch' axis"
        )


def place(tree: Tree, mesh: Mesh | None) -> Tree:
    """Put `tree` on the devices, the same on each; every process holds the same values."""
    return jax.device_put(tree, sharding_of(mesh))


def place_rows(batch: Any, mesh: Mesh | None, batch_size: int) -> Any:
    """Put a host batch on the devices; with several processes, each gives its own rows."""
    if mesh is None:
        return jax.device_put(batch)
    sharding = _by_rows(mesh)
    return jax.tree.map(
        lambda local: jax.make_array_from_process_local_data(
            sharding, local, (batch_size, *local.shape[1:])
        ),
        batch,
    )


def sharding_of(mesh: Mesh | None) -> jax.sharding.Sharding:
    """Return where parameters stand: whole on every device of the mesh, or on the one device."""
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return _replicated(mesh)


def constrain(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside jit: hold `tree` whole on every device of the mesh, if there is one."""
    return tree if mesh is None else lax.with_sharding_constraint(tree, _replicated(mesh))


def constrain_rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside jit: split the leading axis over "batch", if there is a mesh."""
    return tree if mesh is None else lax.with_sharding_constraint(tree, _by_rows(mesh))


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("batch"))
