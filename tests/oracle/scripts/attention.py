import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention


class Decoder(nn.Transformer):
    def forward(self, x):
        return self.encoder(x, self.generate_square_subsequent_mask(x.size(1)))


torch.manual_seed(0)
model = Decoder(8, 2, 1, 1, 16, batch_first=True).eval()
x = torch.randn(2, 5, 8)
mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
print(model(x).sum().item(), mask, model.generate_square_subsequent_mask(2, "cpu") + torch.ones(2))

query, key, value = (torch.randn(2, 4, 16, 8) for _ in range(3))
slopes, documents = torch.rand(4), torch.arange(16) // 5


def biased(score, batch, head, i, j):
    return score - slopes[head] * (i - j).abs()


def causal(batch, head, i, j):
    return (i >= j) & (documents[i] == documents[j])


for given in ({}, {"device": "cpu"}):
    blocks = create_block_mask(causal, None, None, 16, 16, BLOCK_SIZE=8, **given)
    out, lse = flex_attention(query, key, value, biased, blocks, return_lse=True)
    print(out.sum().item(), lse[0, 0, :3], blocks.to_dense(), create_mask(causal, 1, 1, 4, 4, **given))
for attempt in (
    lambda: flex_attention(query.requires_grad_(), key, value),
    lambda: create_mask(causal, 1, 1),
    lambda: nn.Transformer.generate_square_subsequent_mask(),
):
    try:
        attempt()
    except Exception as error:
        print(type(error).__name__, error)
