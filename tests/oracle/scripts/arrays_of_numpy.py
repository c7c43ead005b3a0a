import operator

import numpy as np
import torch

rows = np.arange(24, dtype=np.float32).reshape(4, 6)
lying = {
    "columns first": np.asfortranarray(rows),
    "transposed": rows.reshape(2, 3, 4).transpose(2, 0, 1),
    "steps": rows[::2, ::3],
    "column": rows[:, 1],
    "expanded": np.lib.stride_tricks.as_strided(rows, (3, 6), (0, 4)),
    "overlapping": np.lib.stride_tricks.sliding_window_view(rows[0], 3, writeable=True),
    "empty": rows[:0],
}
makers = (
    torch.from_numpy,
    torch.as_tensor,
    torch.asarray,
    torch.tensor,
    torch.Tensor,
    torch.ones(1).new_tensor,
    lambda a: torch.as_tensor(a, dtype=torch.float64),
    lambda a: torch.asarray(a, copy=True),
    lambda a: torch.from_dlpack(a.copy(order="K")),
)
for name, array in lying.items():
    for make in makers:
        made = make(array)
        print(
            name, made.dtype, made.stride(), made.is_contiguous(), made.untyped_storage().nbytes() if name != "gaps" else 0
        )
        print((made * 2).stride(), made.sum())

t, a = torch.arange(3.0), np.arange(3, dtype=np.float32) * 2
comparisons = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
arithmetic = (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.iadd, operator.imul)
for operate in (*comparisons, *arithmetic, torch.add, torch.eq, torch.equal):
    for operands in ((t, a), (a, t), (t.clone(), a[:1]), (a.copy(), t[1]), (t, np.float64(1))):
        try:
            found = operate(*operands)
            print(operate.__name__, type(found).__name__, found)
        except Exception as error:
            print(operate.__name__, type(error).__name__, str(error).splitlines()[0])
print(np.float32(2) in t, (t.requires_grad_() == a).sum(), (torch.ones(2, 3) == a).all(1))

t = torch.arange(4.0)
shared = torch.from_dlpack(t)
shared[:2] = -1
print(t, np.from_dlpack(t), t.__dlpack_device__(), torch.from_dlpack(np.arange(4)) + t, torch.from_dlpack(t, copy=True) * t)
print(torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(t)) + t)
for wrong in (torch.ones(2, requires_grad=True), torch.tensor([1j]).conj(), 3):
    for convert in (np.from_dlpack, torch.from_dlpack):
        try:
            print(convert(wrong))
        except Exception as error:
            print(type(error).__name__, error)
x = torch.asarray(rows[:, 1], requires_grad=True)
(x * 2).sum().backward()
print(x, x.grad, x.is_leaf, torch.as_tensor([t[0], 2.0]), torch.as_tensor(rows, device="meta").shape)
