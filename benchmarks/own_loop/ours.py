import torch
import torch.nn.functional as F
from mine import dataset, net
from torch.utils.data import DataLoader

import coterie

me = coterie.join()
model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(dataset, batch_size=96, shuffle=True)
model, optimizer, loader = me.prepare(model, optimizer, loader)
for epoch in me.passes(10):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    me.print(epoch, loss.item())
