"""Fed-LPFM, the device's half (arXiv 2311.08479): the light proxy learns from labels and teachers.

    L(theta) = (1 - lambda) CE(theta) + lambda D(theta, teachers)

D is tau^2 KL(teacher || proxy) as published, or one of the alternatives in
``client_app/distillation.py``. Teachers answer once, for each image as it is; with augmentation
the proxy sees a changed image and learns the teachers' answer to the unchanged one. A device
without a teacher, without room for one, or whose teacher fails, minimises CE alone.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from client_app import distillation
from client_app.batches import Batch
from client_app.device import Device
from client_app.sgd import local_sgd
from client_app.teachers.answers import Answers
from client_app.teachers.memory_budget import NotEnoughMemory
from common.data.crop import crop
from common.divergence import kl
from common.errors import ModelError
from common.methods.fed_lpfm import Down, Up, Without
from common.models import features_and_logits

log = logging.getLogger(__name__)


def prepare(device: Device) -> None:
    """Before the run: whatever is wrong with this device's teachers is said now.

    Raises
    ------
    AugFlowerError: a teacher is not what it must be, or its weights cannot be had.
    """
    if device.teachers is not None:
        device.teachers.check()


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD on the proxy, guided by this device's teachers where it has any."""
    images, labels = device.images
    answers, without = _ask(device, embeddings=down.loss == "features")
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)
    dice = Generator().manual_seed(down.seed)
    distilled, seen = 0.0, 0

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        nonlocal distilled, seen
        seen_images, rows = batch
        inputs = crop(seen_images, down.augmentation, dice, "reflect")
        terms = [0.0, 0.0]

        def loss() -> Tensor:
            features, logits = features_and_logits(device.model.module, inputs)
            hard = F.cross_entropy(logits, labels[rows])
            terms[0] = float(hard.detach())
            if answers is None:
                return hard
            soft = _distillation(down, features, logits, labels[rows], answers, rows)
            terms[1] = float(soft.detach())
            return (1 - down.distillation) * hard + down.distillation * soft

        device.model.load(vector)
        grad, _ = device.model.gradient(loss)
        distilled, seen = distilled + terms[1] * len(rows), seen + len(rows)
        return grad, terms[0]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(down.seed)  # of dropout
        vector, loss = local_sgd(
            theta, (images, torch.arange(len(labels))), gradient, down.sgd, down.seed
        )
    return Up(
        round=down.round,
        change=down.model.with_vector(vector.sub_(theta).numpy(force=True)),
        buffers=device.model.buffers,
        examples=len(labels),
        loss=loss,
        distillation_loss=distilled / max(seen, 1),
        teachers=len(answers.weights) if answers else 0,
        left_out=answers.left_out if answers else 0,
        without=without,
    )


def _ask(device: Device, embeddings: bool) -> tuple[Answers | None, Without]:
    """The teachers' answers to the device's images; if there are none, why."""
    if device.teachers is None:
        return None, "no teacher"
    try:
        return device.teachers.answers(embeddings), ""
    except NotEnoughMemory as error:
        log.warning("%s; this device trains without a teacher", error)
        return None, "no room"
    except (ModelError, OSError) as error:
        log.error("the teacher failed: %s; this device trains without it", error)
        return None, "teacher failed"


def _distillation(
    down: Down, features: Tensor, logits: Tensor, labels: Tensor, answers: Answers, rows: Tensor
) -> Tensor:
    if down.loss == "features":
        theirs = [each[rows] for each in answers.embeddings]
        return distillation.similarity(features, theirs, answers.weights.tolist())
    goal = distillation.mixture(answers.logits[:, rows], answers.weights, down.temperature)
    match down.loss:
        case "kl":
            return kl(logits, goal, down.temperature)
        case "mse":
            return distillation.logit_mse(logits, goal)
        case "decoupled":
            return distillation.decoupled(logits, goal, labels, down.temperature, down.beta)
