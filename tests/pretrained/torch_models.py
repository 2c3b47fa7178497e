"""VGG, ResNet, MobileNetV2 and EfficientNet in torch, with torchvision's names of parameters.

Each returns `(logits, last activations (b k h w))`, so that both can be compared.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class Pooled(nn.Module):
    """Features, global average pooling, a linear head."""

    def forward(self, x):
        x = self.extract(x)
        return self.head(x.mean(dim=(2, 3))), x


def conv_bn(inputs, outputs, size, stride=1, groups=1, act=nn.ReLU, epsilon=1e-5):
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=epsilon),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class VGG(Pooled):
    def __init__(self, convolutions, num_labels):
        super().__init__()
        layers, inputs = [], 3
        for outputs, number in zip((64, 128, 256, 512, 512), convolutions, strict=True):
            for _ in range(number):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        # torchvision's three fully connected layers, smaller: here they are only in the way.
        self.classifier = nn.Sequential(*(nn.Linear(3, 3) for _ in range(7)))
        self.gap_head = nn.Linear(512, num_labels)

    def extract(self, x):
        return self.features(x)

    def head(self, x):
        return self.gap_head(x)


class Residual(nn.Module):
    def __init__(self, inputs, features, stride, bottleneck):
        super().__init__()
        outputs = 4 * features if bottleneck else features
        sizes = (
            [(inputs, features, 1, 1), (features, features, 3, stride), (features, outputs, 1, 1)]
            if bottleneck
            else [(inputs, features, 3, stride), (features, features, 3, 1)]
        )
        for index, (i, o, size, step) in enumerate(sizes, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(i, o, size, step, size // 2, bias=False))
            setattr(self, f"bn{index}", nn.BatchNorm2d(o))
        self.number = len(sizes)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x):
        out = x
        for index in range(1, self.number + 1):
            out = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(out))
            if index < self.number:
                out = out.relu()
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(Pooled):
    def __init__(self, blocks, num_labels, *, bottleneck):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, number in enumerate(blocks):
            layer = []
            for index in range(number):
                stride = 2 if stage and not index else 1
                layer.append(Residual(inputs, 64 * 2**stage, stride, bottleneck))
                inputs = 64 * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(inputs, num_labels)

    def extract(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def head(self, x):
        return self.fc(x)


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_bn(inputs, hidden, 1, act=nn.ReLU6)] if expansion > 1 else []
        layers.append(conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Pooled):
    def __init__(self, num_labels):
        super().__init__()
        layers, inputs = [conv_bn(3, 32, 3, 2, act=nn.ReLU6)], 32
        for expansion, outputs, number, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(number):
                step = 1 if index else stride
                layers.append(InvertedResidual(inputs, outputs, step, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv_bn(inputs, 1280, 1, act=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_labels))

    def extract(self, x):
        return self.features(x)

    def head(self, x):
        return self.classifier(x)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        gate = nn.functional.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        return x * self.fc2(gate).sigmoid()


class MBConv(nn.Module):
    def __init__(self, inputs, outputs, size, stride, expansion, epsilon):
        super().__init__()
        hidden, options = inputs * expansion, {"act": nn.SiLU, "epsilon": epsilon}
        self.block = nn.Sequential(
            *([conv_bn(inputs, hidden, 1, **options)] if expansion > 1 else []),
            conv_bn(hidden, hidden, size, stride, hidden, **options),
            SqueezeExcitation(hidden, inputs // 4),
            conv_bn(hidden, outputs, 1, act=None, epsilon=epsilon),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.block(x) if self.adds else self.block(x)


class EfficientNet(Pooled):
    def __init__(self, num_labels, *, width=1.0, depth=1.0, epsilon=1e-5):
        super().__init__()

        def channels(number):
            rounded = max(8, int(width * number + 4) // 8 * 8)
            return rounded + 8 if rounded < 0.9 * width * number else rounded

        inputs = channels(32)
        stages = [conv_bn(3, inputs, 3, 2, act=nn.SiLU, epsilon=epsilon)]
        for size, number, outputs, expansion, stride in (
            (3, 1, 16, 1, 1),
            (3, 2, 24, 6, 2),
            (5, 2, 40, 6, 2),
            (3, 3, 80, 6, 2),
            (5, 3, 112, 6, 1),
            (5, 4, 192, 6, 2),
            (3, 1, 320, 6, 1),
        ):
            stage = []
            for index in range(math.ceil(depth * number)):
                step = 1 if index else stride
                stage.append(MBConv(inputs, channels(outputs), size, step, expansion, epsilon))
                inputs = channels(outputs)
            stages.append(nn.Sequential(*stage))
        last = 4 * inputs
        stages.append(conv_bn(inputs, last, 1, act=nn.SiLU, epsilon=epsilon))
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_labels))

    def extract(self, x):
        return self.features(x)

    def head(self, x):
        return self.classifier(x)


MODELS = {
    "vgg16": lambda labels: VGG((2, 2, 3, 3, 3), labels),
    "vgg19": lambda labels: VGG((2, 2, 4, 4, 4), labels),
    "resnet18": lambda labels: ResNet((2, 2, 2, 2), labels, bottleneck=False),
    "resnet34": lambda labels: ResNet((3, 4, 6, 3), labels, bottleneck=False),
    "resnet50": lambda labels: ResNet((3, 4, 6, 3), labels, bottleneck=True),
    "resnet101": lambda labels: ResNet((3, 4, 23, 3), labels, bottleneck=True),
    "resnet152": lambda labels: ResNet((3, 8, 36, 3), labels, bottleneck=True),
    "mobilenet_v2": MobileNetV2,
    "efficientnet_b0": EfficientNet,
    "efficientnet_b1": lambda labels: EfficientNet(labels, depth=1.1),
    "efficientnet_b5": lambda labels: EfficientNet(labels, width=1.6, depth=2.2, epsilon=1e-3),
}


def randomised(name, num_labels, *, seed=0):
    """A model in inference mode whose statistics are not trivial."""
    model = MODELS[name](num_labels).eval()
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor):
        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))

    def normal(tensor, scale):
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                uniform(module.weight)
                uniform(module.running_var)
                normal(module.bias, 0.3)
                normal(module.running_mean, 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                normal(module.weight, math.sqrt(2 / module.weight[0].numel()))
                if module.bias is not None:
                    normal(module.bias, 0.3)
    return model
