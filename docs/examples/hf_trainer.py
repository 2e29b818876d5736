"""Hugging Face's Trainer: compute_loss is the attached loss, and the optimizer has the method's parameters, too."""

import torch
import transformers

import kdbench

small = transformers.ResNetConfig(num_labels=10, embedding_size=8, hidden_sizes=[16, 32, 64, 64], depths=[1] * 4)
student, teacher = (transformers.ResNetForImageClassification(small) for _ in range(2))
d = kdbench.attach(student, teacher, "semckd", num_train=16, batch_size=8, image_size=64)


class Distilling(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        loss = d(inputs["pixel_values"], inputs["labels"])
        return (loss, {"logits": d.logits}) if return_outputs else loss


data = [{"pixel_values": torch.randn(3, 64, 64), "labels": i % 10} for i in range(16)]
optimizer = torch.optim.SGD([*student.parameters(), *d.parameters()], lr=0.05)
words = transformers.TrainingArguments("trained", per_device_train_batch_size=8, num_train_epochs=1, report_to=[])
Distilling(student, words, train_dataset=data, optimizers=(optimizer, None)).train()
