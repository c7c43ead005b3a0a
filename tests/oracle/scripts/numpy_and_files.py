import io

import numpy as np
import torch

a = np.arange(6, dtype=np.float32).reshape(2, 3)
t = torch.from_numpy(a)
print(t, (t * 2).numpy(), np.asarray(t + 1), torch.as_tensor(a).sum(), torch.tensor(a).dtype, t.tolist())
f = io.BytesIO()
torch.save({"t": t, "n": 3}, f)
f.seek(0)
print(torch.load(f))
