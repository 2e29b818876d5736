"""Lightning, as a callback: a module with a ``net`` learns from a teacher, and its own code stays as it is."""

import lightning
import torch

import kdbench
from kdbench import models


class Distil(lightning.Callback):
    def __init__(self, *asked, **facts):
        self.asked, self.facts = asked, facts

    def setup(self, trainer, module, stage):  # before the optimizer is made, which gets the method's parameters, too
        module.d = kdbench.attach(module.net, *self.asked, **self.facts)
        module.training_step = lambda batch, batch_idx: module.d(*batch)


def train(module, dataset):  # module: a LightningModule of yours
    distil = Distil(models.create("resnet20", 10), "rkd", num_train=len(dataset), batch_size=8, image_size=32)
    trainer = lightning.Trainer(max_epochs=1, accelerator="auto", callbacks=[distil])
    trainer.fit(module, torch.utils.data.DataLoader(dataset, batch_size=8))
