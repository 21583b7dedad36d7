"""Forms of a stored feature: how a vector of the teacher becomes bytes, and what is read back from them.

``fp16`` and ``int8`` give the vector back; ``pca`` gives its first principal components; ``pq`` gives them too, from a
product quantiser (Jégou et al., "Product quantization for nearest neighbor search", IEEE TPAMI 33(1), 2011).
Components are of the standardised vector, and keep their variances: a student that is compared with them learns what it
would learn from the whole vector. Divided by their deviations, the many small ones would drown the few large ones.
"""

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from kdnas.errors import InputError
from kdnas.run.seeds import generator

DIMS, CODES = 64, 16  # principal components and sub-vectors, unless set
CENTROIDS = 256  # what one byte can name
ROUNDS = 25  # of k-means, at most
Fields = list[tuple[str, type, tuple[int, ...]]]


class Form(Protocol):
    """One form of stored features.

    Attributes:
        fitted: Whether it is fitted to features, and gives principal components of them.
        dim: Length of the vector that is read.
        fields: The parts of a row that hold one feature: name, numpy type, shape.
    """

    fitted: ClassVar[bool]
    dim: int
    fields: Fields

    def encode(self, features: Tensor) -> dict[str, np.ndarray]:
        """(B, F) float32 on the CPU to the parts of B rows."""
        ...

    def decode(self, parts: np.ndarray) -> Tensor:
        """B rows, (B,) structured, to (B, ``dim``) float32."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What was fitted; empty where nothing is."""
        ...


def bytes_per_vector(form: Form) -> int:
    """What one feature takes on disk."""
    return sum(np.dtype(kind).itemsize * int(np.prod(shape, dtype=int)) for _, kind, shape in form.fields)


def form_sizes(form: str, feature_dim: int, dims: int | None, codes: int | None) -> tuple[int | None, int | None]:
    """The principal components and sub-vectors of a form: those given, or its defaults; None where it has none.

    Raises:
        InputError: An unknown form, a size that the form does not use, or one that does not fit the teacher's F.
    """
    if form not in FORMS:
        raise InputError(f"knowledge.form = {form!r} is unknown: choose one of {', '.join(FORMS)}")
    if dims is not None and form not in FITTED:
        raise InputError(f"knowledge.dims goes with the forms pca and pq, not with {form!r}: leave it out")
    if codes is not None and form != "pq":
        raise InputError(f"knowledge.codes goes with the form pq, not with {form!r}: leave it out")
    if form not in FITTED:
        return None, None
    dims = min(DIMS, feature_dim) if dims is None else dims
    if not 1 <= dims <= feature_dim:
        raise InputError(f"knowledge.dims = {dims} is not in 1 … {feature_dim}, the length of the teacher's features")
    if form != "pq":
        return dims, None
    if codes is None:
        codes = max(n for n in range(1, CODES + 1) if dims % n == 0)
    if codes < 1 or dims % codes:
        raise InputError(f"knowledge.codes = {codes} does not divide knowledge.dims = {dims}: choose a divisor")
    return dims, codes


def quantise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Round features (B, F) to int8 with one scale per vector: returns (B, F) int8 and (B,) float32.

    The scale is max|f| / 127, so the error of an entry is at most half of it.
    """
    scale = features.abs().amax(1) / 127
    steps = features / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return steps.round().clamp(-127, 127).to(torch.int8), scale


class Half:
    """float16: 2 bytes an entry."""

    fitted: ClassVar[bool] = False

    def __init__(self, feature_dim: int) -> None:
        self.dim = feature_dim
        self.fields: Fields = [("features", np.float16, (feature_dim,))]

    def encode(self, features: Tensor) -> dict[str, np.ndarray]:
        """As ``Form``; InputError where float16 overflows."""
        half = features.half()
        if not half.isfinite().all():
            raise InputError("the teacher's features are not finite in fp16: set knowledge.form to 'int8'")
        return {"features": half.numpy()}

    def decode(self, parts: np.ndarray) -> Tensor:
        """As ``Form``."""
        # numpy's own conversion to float32 is ten times slower than torch's.
        return torch.from_numpy(parts["features"].copy()).float()

    def tensors(self) -> dict[str, Tensor]:
        """As ``Form``."""
        return {}


class Int8:
    """int8 with a scale per vector: one byte an entry, and 4."""

    fitted: ClassVar[bool] = False

    def __init__(self, feature_dim: int) -> None:
        self.dim = feature_dim
        self.fields: Fields = [("scale", np.float32, ()), ("features", np.int8, (feature_dim,))]

    def encode(self, features: Tensor) -> dict[str, np.ndarray]:
        """As ``Form``."""
        steps, scale = quantise(features)
        return {"features": steps.numpy(), "scale": scale.numpy()}

    def decode(self, parts: np.ndarray) -> Tensor:
        """As ``Form``."""
        scale = torch.from_numpy(parts["scale"].copy())
        return torch.from_numpy(parts["features"]).float().mul_(scale[:, None])

    def tensors(self) -> dict[str, Tensor]:
        """As ``Form``."""
        return {}


def principal(sample: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """The first principal components of standardised vectors (N, F), as they are seen by a loss on whole features.

    Returns:
        Mean (F,), and the basis (F, dims) whose product with a centred vector are its components: each entry is
        divided by its standard deviation, where it has one. Of the two signs of a component, the one whose largest
        entry is positive.

    Raises:
        InputError: Fewer vectors than components.
    """
    if len(sample) < dims:
        raise InputError(
            f"{len(sample)} images in the weights split are too few for knowledge.dims = {dims}: set it lower"
        )
    mean = sample.mean(0, dtype=torch.float64)
    spread = sample.double().std(0, correction=0)
    spread = torch.where(spread > 1e-6, spread, 1)
    if len(sample) < len(mean):
        vectors = torch.linalg.svd((sample.double() - mean) / spread, full_matrices=False)[2]
        basis = vectors[:dims].T
    else:
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in sample.split(1024):
            centred = (part.double() - mean) / spread
            covariance.addmm_(centred.T, centred, alpha=1 / len(sample))
        basis = torch.linalg.eigh(covariance)[1][:, -dims:].flip(1)  # eigenvalues rise
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return mean.float(), (basis * largest.sign() / spread[:, None]).float()


class Pca:
    """The first principal components as int8, each with a fixed scale that is kept in the form: a byte a component."""

    fitted: ClassVar[bool] = True

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        self.mean, self.basis, self.scale = mean, basis, scale
        self.dim = basis.shape[1]
        self.fields: Fields = [("features", np.int8, (self.dim,))]

    @classmethod
    def fit(cls, sample: Tensor, dims: int) -> "Pca":
        """Fit to vectors (N, F); a component beyond the largest in the sample is clipped to it."""
        mean, basis = principal(sample, dims)
        largest = ((sample - mean) @ basis).abs().amax(0)
        return cls(mean, basis, largest.clamp_min(torch.finfo(torch.float32).tiny) / 127)

    def encode(self, features: Tensor) -> dict[str, np.ndarray]:
        """As ``Form``."""
        steps = ((features - self.mean) @ self.basis / self.scale).round()
        return {"features": steps.clamp(-127, 127).to(torch.int8).numpy()}

    def decode(self, parts: np.ndarray) -> Tensor:
        """As ``Form``."""
        return torch.from_numpy(parts["features"]).float().mul_(self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """As ``Form``."""
        return {"mean": self.mean, "basis": self.basis, "scale": self.scale}


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Number of the nearest centroid: (…, N, d) and (…, K, d) to (…, N)."""
    # |x - c|² without |x|², which is the same for all c.
    half = centroids.square().sum(-1, keepdim=True).transpose(-1, -2) / 2  # (…, 1, K)
    return (half - points @ centroids.transpose(-1, -2)).argmin(-1)


def k_means(points: Tensor, draw: torch.Generator) -> Tensor:
    """Lloyd's algorithm: (N, d) to ``CENTROIDS`` centroids; where N is smaller, the last ones repeat the first.

    A centroid that no point is nearest to stays where it is.
    """
    start = torch.randperm(len(points), generator=draw)
    centroids = points[start[torch.arange(CENTROIDS) % len(points)]].clone()
    before = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        own = nearest(points, centroids)
        if torch.equal(own, before):
            break
        before = own
        count = torch.bincount(own, minlength=CENTROIDS)
        total = torch.zeros_like(centroids).index_add_(0, own, points)
        centroids = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centroids)
    return centroids


class Pq:
    """The first principal components, dealt out to sub-vectors that each become the number of their nearest centroid.

    Sub-vector n has the components n, n + codes, n + 2 codes, ...: the first ones vary most, and no code has them all.
    """

    fitted: ClassVar[bool] = True

    def __init__(self, mean: Tensor, basis: Tensor, centroids: Tensor) -> None:
        self.mean, self.basis, self.centroids = mean, basis, centroids  # centroids: (codes, 256, dims / codes)
        codes, _, part = centroids.shape
        self.dim = codes * part
        self.fields: Fields = [("features", np.uint8, (codes,))]
        self._words = centroids.reshape(codes * CENTROIDS, part)  # one table of all sub-vectors
        self._first = torch.arange(codes) * CENTROIDS  # its row of each sub-vector's first centroid

    @classmethod
    def fit(cls, sample: Tensor, dims: int, codes: int, seed: int = 0) -> "Pq":
        """Fit to vectors (N, F)."""
        mean, basis = principal(sample, dims)
        parts = cls._dealt((sample - mean) @ basis, codes)
        centroids = [k_means(part, generator("product quantiser", seed, n)) for n, part in enumerate(parts)]
        return cls(mean, basis, torch.stack(centroids))

    @staticmethod
    def _dealt(components: Tensor, codes: int) -> Tensor:
        """(B, dims) to (codes, B, dims / codes)."""
        return components.unflatten(1, (-1, codes)).permute(2, 0, 1).contiguous()

    def encode(self, features: Tensor) -> dict[str, np.ndarray]:
        """As ``Form``."""
        parts = self._dealt((features - self.mean) @ self.basis, len(self.centroids))
        return {"features": nearest(parts, self.centroids).T.to(torch.uint8).contiguous().numpy()}  # (B, codes)

    def decode(self, parts: np.ndarray) -> Tensor:
        """As ``Form``."""
        row = torch.from_numpy(parts["features"]).long() + self._first
        return self._words[row].transpose(1, 2).flatten(1)  # (B, codes, d) to (B, dims)

    def tensors(self) -> dict[str, Tensor]:
        """As ``Form``."""
        return {"mean": self.mean, "basis": self.basis, "centroids": self.centroids}


FORMS: dict[str, Any] = {"fp16": Half, "int8": Int8, "pca": Pca, "pq": Pq}
FITTED = tuple(name for name, kind in FORMS.items() if kind.fitted)
