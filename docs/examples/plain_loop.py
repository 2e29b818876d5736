"""A plain PyTorch loop: SemCKD on a student and a teacher of kdbench's zoo."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import kdbench
from kdbench import models

student, teacher = models.create("resnet8", 10), models.create("resnet20", 10)
images, labels = torch.randn(40, 3, 32, 32), torch.arange(40) % 10
d = kdbench.attach(student, teacher, "semckd", labels=labels, batch_size=16, image_size=32)
optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05, momentum=0.9)
for x, y in DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True):
    optimizer.zero_grad()
    d(x, y).backward()
    optimizer.step()
print({name: round(term.item(), 2) for name, term in d.terms.items()}, d.predict(images).shape)
