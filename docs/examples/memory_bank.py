"""CRD keeps a vector of every training image, so each batch says which images it holds."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import kdbench
from kdbench import models

student, teacher = models.create("resnet8", 10), models.create("resnet20", 10)
images, labels = torch.randn(40, 3, 32, 32), torch.arange(40) % 10
d = kdbench.attach(student, teacher, "crd", labels=labels, batch_size=16, image_size=32, convention="crd")
optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05, momentum=0.9)
for x, y, idx in DataLoader(TensorDataset(images, labels, torch.arange(40)), batch_size=16, shuffle=True):
    optimizer.zero_grad()
    d(x, y, idx).backward()
    optimizer.step()
torch.save({"student": student.state_dict(), "crd": d.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
