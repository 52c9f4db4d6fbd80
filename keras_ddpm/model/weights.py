"""Which weights are trained, and what may not happen to them."""

import keras
from keras import ops

from keras_ddpm.model.saving import NO_OTHER_WEIGHTS


class Weights:
    """The part of a `DiffusionModel` that looks after its weights."""

    @property
    def trainable(self):
        """Whether the network is trained. The averaged network never is."""
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        keras.Model.trainable.fset(self, value)
        self.freeze_average()

    def trained_networks(self):
        """The networks that a training may change."""
        return [self.network]

    def freeze_average(self):
        """Freezes all layers of the averaged network.

        Keras ignores the second line if the network is frozen already and some layers are not.
        """
        self.ema_network.trainable = True
        self.ema_network.trainable = False

    def quantize(self, mode=None, **kwargs):
        """Not supported: `export` and `export_sampler` write int8 weights."""
        raise ValueError(
            f"mode={mode!r}: a DiffusionModel trains float32 weights. For a file with int8 weights "
            'use export_sampler or export with format="litert", dtype="int8".'
        )

    def check_layout(self):
        """Refuses a model some of whose layers have got other weights since it was made."""
        if self.describe_weights() != self.layout:
            raise ValueError(f"the network has other weights than before: {NO_OTHER_WEIGHTS}")

    def describe_weights(self):
        """The names, shapes and dtypes of all weights, as one string."""
        weights = [*self.network.weights, *self.ema_network.weights]
        return str([(weight.path, weight.shape, weight.dtype) for weight in weights])

    def check_weights(self):
        """Refuses what cannot be trained, before the first step."""
        self.check_layout()
        self.freeze_average()
        weights = self.trainable_variables
        if not weights:
            raise ValueError(
                f"the network {self.network.name!r} has no trainable weights: set `trainable = "
                "True` for some of its layers."
            )
        own = {id(weight) for net in self.trained_networks() for weight in net.weights}
        for weight in weights:
            if id(weight) not in own:
                raise ValueError(
                    f"the weight {weight.path!r} is not one of the network, so no loss trains it."
                )
            if weight.dtype in ("bfloat16", "float16"):
                raise ValueError(
                    f"the weight {weight.path!r} is {weight.dtype}, too coarse for training. Build "
                    f'the network with dtype="mixed_{weight.dtype}", which has float32 weights.'
                )

    def check_compiled(self):
        """Refuses to train other weights than the optimizer was made for.

        Before its first step another one takes its place, with which nothing is lost.
        """
        self.check_weights()
        weights = {id(weight) for weight in self.trainable_variables}
        if not self.compiled or weights == self.compiled_for:
            return
        if int(ops.convert_to_numpy(self.optimizer.iterations)):
            raise ValueError(
                "layers have been frozen or released since the first step: call `compile` again, "
                "because the optimizer was made for the weights that were trainable then."
            )
        self.optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
        self.build_optimizer()
        self.make_train_function(force=True)

    def build_optimizer(self):
        self.optimizer.build(self.trainable_variables)
        self.compiled_for = {id(weight) for weight in self.trainable_variables}

    def forward_state(self):
        """What the forward pass itself changes, such as the means of BatchNormalization."""
        variables = self.network.non_trainable_variables
        return [v for v in variables if "float" in keras.backend.standardize_dtype(v.dtype)]


def check_network(network):
    """Refuses a network that is no function from [x_t, t, ...] to one like x_t."""
    inputs = getattr(network, "inputs", None) or ()
    if not isinstance(network, keras.Model) or len(inputs) not in (2, 3, 4):
        raise ValueError(
            f"network={network!r} must be a functional keras.Model with the inputs [x_t, t], then "
            "perhaps label, and last perhaps condition, such as a UNet."
        )
    has_condition = inputs[-1].name == "condition"
    if len(inputs) - has_condition == 4:
        raise ValueError(
            f"network={network.name!r}: the last of its inputs must have the name 'condition'."
        )
    shapes = [tuple(tensor.shape) for tensor in network.outputs]
    if shapes != [tuple(inputs[0].shape)]:
        raise ValueError(
            f"network={network.name!r} has outputs of shapes {shapes}, but needs one like its "
            f"first input, {tuple(inputs[0].shape)}."
        )
    names = [layer.name for layer in network.layers]
    if len(inputs) - has_condition == 3 and "label_embedding" not in names:
        raise ValueError(
            f"network={network.name!r} takes labels, but has no Embedding layer named "
            '"label_embedding".'
        )
