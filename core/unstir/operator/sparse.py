"""A sparse matrix as an operator, applied to a whole batch at once.

The samples become the columns of one dense (inputs, batch) block; A and its transpose are both kept in compressed rows. A batch of 48
images is then one pass over the matrix. torch with MKL takes about 0.6 of scipy's time on one thread; without MKL scipy does it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator


class SparseMatrix(Operator):
    """y = A x with a real sparse A; exact transpose; acts on the real and the imaginary part of complex states.

    Args:
        matrix: (outputs, inputs), any scipy sparse matrix or a 2D torch sparse tensor. Kept in its own precision (which 64-bit states see
            as it is) and cast once to each dtype it meets.
        shape_in: shape of a state, product = inputs; flat when absent.
        shape_out: shape of a measurement, product = outputs; flat when absent.

    Raises:
        UserError: shapes that do not fit the matrix, a complex matrix, or entries that are not finite.
    """

    def __init__(self, matrix: Any, shape_in: tuple[int, ...] | None = None, shape_out: tuple[int, ...] | None = None) -> None:
        if isinstance(matrix, Tensor):
            entries = matrix.detach().cpu().to_sparse_coo().coalesce()
            matrix = scipy.sparse.csr_matrix((entries.values().numpy(), entries.indices().numpy()), shape=tuple(matrix.shape))
        rows = scipy.sparse.csr_matrix(matrix)
        if rows.dtype not in (np.float32, np.float64):
            if np.issubdtype(rows.dtype, np.complexfloating):
                raise UserError("SparseMatrix takes real matrices, got complex entries: stack real and imaginary part instead")
            rows = rows.astype(np.float64)
        outputs, inputs = rows.shape
        super().__init__(shape_in or (inputs,), shape_out or (outputs,))
        if int(np.prod(self.shape_in)) != inputs or int(np.prod(self.shape_out)) != outputs:
            raise UserError(f"a {outputs} x {inputs} matrix does not map {self.shape_in} to {self.shape_out}")
        if not np.isfinite(rows.data).all():
            raise UserError(f"the {outputs} x {inputs} sparse matrix has entries that are not finite")
        self._rows = rows if rows.has_sorted_indices else rows.sorted_indices()
        self._columns = self._rows.T.tocsr()
        self._cache: dict[tuple[str, torch.dtype, bool], Any] = {}

    @property
    def matrix(self) -> scipy.sparse.csr_matrix:
        """The matrix, (outputs, inputs), in compressed rows."""
        return self._rows

    def _product(self, block: Tensor, *, transposed: bool) -> Tensor:
        """A or its transpose times a dense real block, (inputs, columns) -> (outputs, columns), both contiguous."""
        matrix = self._compressed(block.device, block.dtype, transposed)
        if isinstance(matrix, Tensor):
            return matrix @ block
        return torch.from_numpy(matrix @ block.numpy())

    def _compressed(self, device: torch.device, dtype: torch.dtype, transposed: bool) -> Any:
        key = (str(device), dtype, transposed)
        if key not in self._cache:
            source = self._columns if transposed else self._rows
            if dtype not in (torch.float32, torch.float64):
                raise UserError(f"{self.describe()} multiplies float32 and float64, got {dtype}")
            source = source.astype(np.float32 if dtype == torch.float32 else np.float64, copy=False)
            if device.type == "cpu" and not torch.backends.mkl.is_available():
                self._cache[key] = source
            else:
                starts, places, values = (torch.from_numpy(part) for part in (source.indptr, source.indices, source.data))
                with warnings.catch_warnings():  # torch calls its compressed rows a beta on every first use
                    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
                    self._cache[key] = torch.sparse_csr_tensor(starts, places, values, source.shape, check_invariants=False).to(device)
        return self._cache[key]

    def _blockwise(self, x: Tensor, shape: tuple[int, ...], chain: tuple[bool, ...]) -> Tensor:
        """Apply A (False) or its transpose (True), one after the other, to a batch laid out as columns."""
        batch, pair = x.shape[0], x.is_complex()
        if batch == 0:
            return x.new_zeros((0, *shape))
        flat = x.reshape(batch, -1)
        block = (torch.view_as_real(flat.t().contiguous()).flatten(1) if pair else flat.t()).contiguous()
        for transposed in chain:
            block = self._product(block, transposed=transposed)
        if pair:
            block = torch.view_as_complex(block.unflatten(1, (batch, 2)))
        return block.t().reshape(batch, *shape).contiguous()

    def _forward(self, x: Tensor) -> Tensor:
        return self._blockwise(x, self.shape_out, (False,))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._blockwise(y, self.shape_in, (True,))

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x, (batch, *shape_in), without leaving the column layout in between."""
        if torch.is_grad_enabled() and x.requires_grad or tuple(x.shape[1:]) != self.shape_in:
            return super().normal(x)
        return self._blockwise(x, self.shape_in, (False, True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def describe(self) -> str:
        """The matrix in a few words."""
        return f"SparseMatrix {self.shape_in} -> {self.shape_out}, {self._rows.nnz} non-zeros"

    @classmethod
    def example(cls) -> SparseMatrix:
        """Five diagonals of a 24 x 20 matrix."""
        diagonals = [np.cos(np.arange(20) + k) for k in range(5)]
        return cls(scipy.sparse.diags_array(diagonals, offsets=range(0, -5, -1), shape=(24, 20)), (4, 5), (6, 4))
