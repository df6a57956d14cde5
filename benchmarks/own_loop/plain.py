import torch
import torch.nn.functional as F
from mine import dataset, net
from torch.utils.data import DataLoader

model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(dataset, batch_size=96, shuffle=True)
for epoch in range(10):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(epoch, loss.item())
