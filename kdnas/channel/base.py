"""What a channel is: it generates a state, applies it to code words, and equalises what arrives."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from kdnas.channel.noise import Randomness


class State(NamedTuple):
    """One realisation of the channel for each sample.

    Attributes:
        h: (B, n) complex64, what multiplies or filters the symbols; n is the channel's own.
        noise: (B, k) complex64, of power N_0 at the SNR it was sampled for, N_0/2 in I and in Q.
        estimate: (B, n) complex64, what the receiver takes h to be; None: it knows h.
    """

    h: Tensor
    noise: Tensor
    estimate: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """(B, n) complex64, what the receiver works with."""
        return self.h if self.estimate is None else self.estimate


class Channel(Protocol):
    """What a channel must do. Everything acts per sample and is differentiable in the symbols.

    The state may be any tuple of tensors whose first dimension is the sample. ``kdnas.testing.check_channel`` says
    whether a channel keeps all that is written here.
    """

    @property
    def mean_gain(self) -> float:
        """Mean power of a symbol when it arrives, over that when it is sent.

        It is 1 but for a channel that loses symbols or spends energy on something else; the SNR that is asked for is
        the one before this loss.
        """
        ...

    @property
    def coherent(self) -> bool:
        """Whether the equaliser returns the symbols that were sent, plus noise.

        Where the receiver knows nothing of the phase, it returns what arrived, at the SNR that it was told.
        """
        ...

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> Any:
        """Generate the gains and the noise of ``batch`` samples.

        Args:
            batch: B.
            symbols: k, complex symbols per sample.
            snr_db: (B,) average SNR E_s/N_0 in dB.
            generator: A ``torch.Generator``, or ``ImageNoise`` in evaluation.
        """
        ...

    def apply(self, x: Tensor, state: Any) -> Tensor:
        """What arrives, (B, k) complex64, when ``x`` (B, k) is sent through ``state``."""
        ...

    def equalise(self, y: Tensor, state: Any, snr_db: Tensor, sent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the gain, by what the receiver knows of it.

        Args:
            y: (B, k), what arrived.
            state: Of this realisation.
            snr_db: (B,) average SNR in dB that the receiver works with; the true one unless it is told wrong.
            sent: (B, k) bool, which symbols were sent; None: all.

        Returns:
            The symbols (B, k), unbiased: x plus noise; and their effective SNR in dB (E|x|^2 = 1 over the power of
            that noise), (B,), or (B, k) where it varies within a code word.
        """
        ...
