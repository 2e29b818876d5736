"""A loop in the manner of timm's train.py: its models, optimizer and meters."""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy

import kdbench

student, teacher = (timm.create_model(name, num_classes=10) for name in ("resnet10t", "resnet18"))
d = kdbench.attach(student, teacher, "mag+fitnet", num_train=32, batch_size=8, image_size=32)
batches, meter = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)], AverageMeter()
d.prepare(batches, epochs=1)
optimizer = create_optimizer_v2(torch.nn.ModuleList([student, d]), opt="sgd", lr=0.05)
for x, y in batches:
    optimizer.zero_grad()
    d(x, y).backward()
    optimizer.step()
    meter.update(accuracy(d.logits, y)[0].item(), len(y))
