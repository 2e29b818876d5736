"""Factor transfer trains an autoencoder of the teacher's maps first; the main stage has an optimizer of its own."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import kdbench
from kdbench import models

student, teacher = models.create("resnet8", 10), models.create("resnet20", 10)
loader = DataLoader(TensorDataset(torch.randn(40, 3, 32, 32), torch.arange(40) % 10), batch_size=16, shuffle=True)
d = kdbench.attach(student, teacher, "ft", num_train=40, batch_size=16, image_size=32)
d.prepare(loader, epochs=1)
optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05, momentum=0.9)
for x, y in loader:
    optimizer.zero_grad()
    d(x, y).backward()
    optimizer.step()
