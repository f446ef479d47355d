"""A model in memory: weights in arenas on a backend, ready to be run through decoders."""
import numpy as np

from ..dtypes import F32
from ..errors import LoadError, NonFiniteError
from .decoder import Decoder
from .initial import initial_weights
from .params import build_table
from .plan import activation_plan
from .rehearsal import refuse_unserved
from .rope_table import rope_table


class Model:
    """Configuration, parameter table and weights.

    master   (n,) f32: what the optimiser updates; the same array as `work` in fp32 and in a model
             that is only read
    work     (n,) in the backend's storage type: what the ops read
    weights  name -> view of `work`, by tensor and by pack name
    """

    def __init__(self, config, backend, trainable, where="random weights"):
        """where: what messages call the model. Errors: LoadError if the backend cannot serve it."""
        refuse_unserved(config, backend, 1, 1, trainable, where=where)
        self.where, self.config, self.backend, self.trainable = (
            where, config, backend, trainable)
        self.table = build_table(config)
        n = self.table.elements
        self.work = backend.poisoned(n, backend.dtype)
        separate = trainable and backend.dtype != F32
        self.master = backend.poisoned(n, F32) if separate else self.work
        self.weights = self.table.views(self.work)
        self._rope = {}
        self._make_twin = None

    # ------------------------------------------------------------ filling

    @classmethod
    def from_file(cls, source, backend, trainable=True):
        """Weights of an opened model file, each converted once to float32 and rounded on store.

        Errors: LoadError if a tensor is left unwritten; NonFiniteError if one holds NaN or Inf.
        """
        model = cls(source.config, backend, trainable, str(source.path))
        model._fill(source.weights())
        model._make_twin = lambda other: cls.from_file(source, other, trainable=False)
        return model

    @classmethod
    def random(cls, config, backend, seed, trainable=True):
        """Fresh weights (model/initial.py); the same seed gives the same on every backend."""
        model = cls(config, backend, trainable)
        model._fill(initial_weights(config, model.table, seed))
        model._make_twin = lambda other: cls.random(config, other, seed, trainable=False)
        return model

    def twin(self, backend):
        """The model as it was first filled, on another backend, from the same source: what was
        uploaded wrongly here is right there."""
        return self._make_twin(backend)

    def _fill(self, named):
        masters = self.table.views(self.master)
        missing = set(self.table.tensors)
        for name, array in named:
            row = self.table.tensors.get(name)
            if row is None or tuple(array.shape) != row.shape:
                raise LoadError(f"{name}: shape {tuple(array.shape)} has no place in this model"
                                f"{'' if row is None else f', need {row.shape}'}")
            values = np.ascontiguousarray(array).astype(F32, copy=False)
            if not np.isfinite(values).all():
                raise NonFiniteError(f"{name}: holds NaN or infinite weights; "
                                     "see `aprnb tensor-stats`")
            self.backend.upload(masters[name], values)
            missing.discard(name)
        if missing:
            raise LoadError(f"{len(missing)} tensors were never written: "
                            f"{', '.join(sorted(missing)[:5])}")
        self._clear_padding()
        if self.master is not self.work:
            self.backend.ops.convert(self.work, self.master)

    def _clear_padding(self):
        """Alignment gaps hold zero, so that norms and updates over the whole arena ignore them."""
        rows = sorted(self.table.tensors.values(), key=lambda r: r.offset)
        ends = [r.offset for r in rows[1:]] + [self.table.elements]
        for row, end in zip(rows, ends):
            start = row.offset + row.size
            if end > start:
                self.backend.upload(self.master[start:end], np.zeros(end - start, F32))

    # ------------------------------------------------------------ using

    def decoder(self, batch, length, training, recompute="none"):
        """A Decoder for (batch, length) with its own poisoned activations on the backend.

        Errors: LoadError if length exceeds the positions that the model was made for, or if the
        backend cannot serve a pass of this size.
        """
        if length > self.config.max_position_embeddings:
            raise LoadError(f"sequence length {length} exceeds the model's "
                            f"{self.config.max_position_embeddings} positions; use a shorter "
                            "--seq-length")
        refuse_unserved(self.config, self.backend, batch, length, training, recompute, self.where)
        layout = self.activation_plan(batch, length, training, recompute)
        arenas = {t: self.backend.poisoned(n, t) for t, n in layout.lengths.items()}
        return Decoder(self.config, self.backend.ops, self.weights, layout.views(arenas),
                       self._rope_table(length), recompute)

    def activation_plan(self, batch, length, training, recompute="none"):
        """What a decoder of this size would allocate."""
        return activation_plan(self.config, self.backend, batch, length, training, recompute)

    def _rope_table(self, length):
        if length not in self._rope:
            tables = rope_table(self.config, length)
            self._rope[length] = tuple(self.backend.array(t) for t in tables)
        return self._rope[length]

    def tensors(self):
        """Hugging Face name -> float32 NumPy array, from the master weights."""
        host = self.backend.download(self.master).astype(F32, copy=False)
        return {name: host[r.offset:r.offset + r.size].reshape(r.shape)
                for name, r in self.table.tensors.items()}
