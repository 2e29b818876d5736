"""torchvision's networks: stages are found, or named in taps by the paths of their modules."""

import torch
from torchvision.models import resnet18, resnet50

import kdbench

student, teacher = resnet18(num_classes=10), resnet50(num_classes=10)  # weights="DEFAULT" loads pretrained ones
taps = {"teacher": ["relu", "layer1", "layer2", "layer3", "layer4"]}
d = kdbench.attach(student, teacher, "reviewkd", num_train=32, batch_size=4, image_size=64, taps=taps, steps=8)
optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05, momentum=0.9)
for _ in range(2):
    optimizer.zero_grad()
    d(torch.randn(4, 3, 64, 64), torch.randint(10, (4,))).backward()
    optimizer.step()
d.detach()  # student and teacher are as they came, without hooks
