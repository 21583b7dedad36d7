"""The one training loop: Lightning, with a checkpoint after every epoch and a bit-exact way back into it."""

import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.run import ranks
from kdnas.run.files import atomic_write

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from torch import nn
    from torch.utils.data import DataLoader


def quiet() -> None:
    """Silence Lightning's advertisements and advice; its errors stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("nni").setLevel(logging.CRITICAL)  # what it reports is raised as well
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")


def make_trainer(
    directory: Path,
    name: str,
    *,
    epochs: int,
    accelerator: str = "auto",
    progress: bool = True,
    trainer_class: "Callable[..., Trainer] | None" = None,
    **kwargs: Any,
) -> "Trainer":
    """A Lightning trainer that logs to ``directory/tensorboard/name`` and checkpoints every epoch.

    Args:
        directory: The run directory.
        name: Of the stage; names its TensorBoard run and its checkpoint ``directory/checkpoints/name.ckpt``.
        epochs: How many epochs in all (those before a resume included).
        accelerator: ``auto`` takes a CUDA device where there is one, else the CPU; or ``cpu``, ``cuda``.
        progress: Show a progress bar.
        trainer_class: What to build instead of ``pytorch_lightning.Trainer`` (NNI wants its own traced one).
        kwargs: Passed on to ``pytorch_lightning.Trainer``.

    Of several processes that compute together, all but the first neither log nor write.
    """
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
    from pytorch_lightning.loggers import TensorBoardLogger
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    from kdnas.run.tensors import torch_device

    quiet()

    class Finite(Callback):
        """Ends a training whose loss is none any more, before its weights are kept or used."""

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if trainer.is_last_batch and isinstance(loss, torch.Tensor) and not loss.isfinite().all():
                raise InputError(
                    f"the training {name!r} diverged, its loss is {float(loss.sum())}: begin a new run with a lower "
                    "learning rate"
                )

    class AtomicCheckpoints(TorchCheckpointIO):
        """Lightning's own goes through the temporary folder, and a kill can leave a half file behind."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            atomic_write(path, buffer.getvalue())

    if ranks.world() > 1:
        ranks.check_device(accelerator)
    writes = ranks.rank() == 0
    progress = progress and writes
    keep = ModelCheckpoint(
        dirpath=directory / "checkpoints", filename=name, every_n_epochs=1, save_top_k=1, save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip
    return (trainer_class or pl.Trainer)(
        max_epochs=epochs,
        accelerator=torch_device(accelerator).type,
        devices=1,
        logger=writes and TensorBoardLogger(directory / "tensorboard", name=name, version=""),
        enable_checkpointing=writes,
        callbacks=[
            Finite(),
            *([keep] if writes else []),
            *([RichProgressBar(leave=False, console_kwargs={"stderr": True})] if progress else []),
            *kwargs.pop("callbacks", []),
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        default_root_dir=directory,
        plugins=[AtomicCheckpoints()],
        **kwargs,
    )


def checkpoint_path(directory: Path, name: str) -> Path | None:
    """The checkpoint of stage ``name`` where one was left, else None.

    Raises:
        InputError: It is damaged.
    """
    import torch

    path = directory / "checkpoints" / f"{name}.ckpt"
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises a different one for each way in which a file can be damaged
        raise InputError(f"the checkpoint {path} is damaged: remove it and resume again") from None
    return path


def fit(
    module: "LightningModule",
    loader: "DataLoader[Any]",
    *,
    epochs: int,
    directory: Path,
    name: str,
    val_loader: "DataLoader[Any] | None" = None,
    accelerator: str = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> None:
    """Train ``module`` in place; go on from the stage's checkpoint where there is one.

    Args:
        module: What to train. Any randomness inside a step must be seeded from ``batch.key``, so that a resumed
            run equals one that was not stopped, to the bit.
        loader: Usually from ``kdnas.data.batches``.
        epochs: As in ``make_trainer``, like the next three and ``progress``.
        directory: The run directory.
        name: Of the stage.
        accelerator: Where to compute.
        progress: Show a progress bar.
        val_loader: Optional validation batches.
        kwargs: Passed on to ``pytorch_lightning.Trainer``.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C; the last whole epoch is kept and ``--resume`` goes on from it.
        InputError: The checkpoint is damaged, or the loss became infinite or NaN: that epoch is not kept.
    """
    trainer = make_trainer(directory, name, epochs=epochs, accelerator=accelerator, progress=progress, **kwargs)
    resume = checkpoint_path(directory, name)
    with interruptible():
        trainer.fit(module, loader, val_loader, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a call of ``Trainer.fit``: Ctrl-C stays Ctrl-C (Lightning turns it into exit(1), and ignores it after)."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def channels_last(module: "nn.Module") -> "nn.Module":
    """Put the weights of ``module`` in the memory format in which convolutions run fastest; returns it."""
    import torch

    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
