"""PyTorch: autograd, variables updated in place, inference mode."""

import torch


class TrainStep:
    def train_step(self, data):
        batch = self.prepare_batch(data)
        self.zero_grad()
        loss, target, output = self.denoising_loss(self.network, batch, training=True)
        self.optimizer.scale_loss(loss).backward()
        gradients = [v.value.grad for v in self.network.trainable_variables]

        with torch.no_grad():
            if self.examine(batch, loss, gradients):
                self.apply_gradients(gradients, batch)
            return self.update_metrics(batch, loss, target, output)

    def step_optimizer(self, gradients):
        self.optimizer.apply(gradients, self.network.trainable_variables)

    def test_step(self, data):
        with torch.no_grad():
            batch = self.prepare_batch(data, validation=True)
            loss, target, output = self.denoising_loss(self.ema_network, batch, training=False)
            self.examine(batch, loss)
            return self.update_metrics(batch, loss, target, output)


def compile_function(function, variables, jit_compile):
    """Runs `function` eagerly without autograd: torch.compile would unroll the whole loop."""

    def compiled(*args):
        with torch.inference_mode():
            return function(*args)

    return compiled
