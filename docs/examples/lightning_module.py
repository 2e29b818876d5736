"""Lightning: the loss is an attribute of the module, so its parameters and its state are the module's."""

import lightning
import torch

import kdbench
from kdbench import models


class Distilled(lightning.LightningModule):
    def __init__(self, student, teacher, **facts):
        super().__init__()
        self.student, self.d = student, kdbench.attach(student, teacher, "crd", **facts)

    def training_step(self, batch, number):
        return self.d(*batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


data = torch.utils.data.TensorDataset(torch.randn(40, 3, 32, 32), torch.arange(40) % 10, torch.arange(40))
net = Distilled(*map(models.create, ("resnet8", "resnet20"), (10, 10)), labels=data[:][1], batch_size=8, image_size=32)
lightning.Trainer(max_epochs=1, accelerator="auto").fit(net, torch.utils.data.DataLoader(data, batch_size=8))
