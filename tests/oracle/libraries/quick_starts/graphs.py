import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv, global_mean_pool
from torch_geometric.utils import add_self_loops, to_undirected


class GCN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = GCNConv(8, 16)
        self.second = GCNConv(16, 3)

    def forward(self, data):
        x = F.relu(self.first(data.x, data.edge_index))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.second(x, data.edge_index), dim=1)


torch.manual_seed(0)
edges = to_undirected(torch.randint(0, 30, (2, 60)))
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
data = Data(x=torch.randn(30, 8), edge_index=edges, y=torch.randint(0, 3, (30,))).to(device)
model = GCN().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
model.train()
for _ in range(5):
    optimizer.zero_grad()
    loss = F.nll_loss(model(data), data.y)
    loss.backward()
    optimizer.step()
    print(loss.item())
model.eval()
print(model(data).argmax(dim=1).tolist(), data, add_self_loops(edges)[0].shape)

for layer in (GATConv(8, 4, heads=2), SAGEConv(8, 4), GINConv(torch.nn.Linear(8, 4))):
    out = layer(data.x, data.edge_index)
    out.square().mean().backward()
    print(layer, out.sum().item(), sum(p.grad.sum().item() for p in layer.parameters()))

graphs = [Data(x=torch.randn(n, 8), edge_index=torch.randint(0, n, (2, 2 * n)), y=n) for n in range(4, 12)]
for batch in DataLoader(graphs, batch_size=4, shuffle=True):
    pooled = global_mean_pool(model.first(batch.x, batch.edge_index), batch.batch)
    print(batch, batch.num_graphs, batch.y.tolist(), pooled.sum().item())
