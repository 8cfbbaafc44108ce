"""hf: VAE whose posterior is turned by Householder reflections that depend on the datum."""

import dataclasses
from typing import Any, Optional, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo import flows, networks
from pae_zoo.core import distributions, seeds
from pae_zoo.core import hparams as hp
from pae_zoo.models import vae
from pae_zoo.models.parts import priors
from pae_zoo.models.parts.posteriors import DiagonalPosterior, Posterior

tfd = tfp.distributions


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    """Flags of the VAE with a Householder flow."""

    prior: str = priors.option(priors.WITHOUT_VAMP)
    num_flows: int = hp.option(4, "Reflections F of the posterior, each at a plane that the encoder chooses (0: the "
                               "vae).", low=0, high=1000)


class ReflectedPosterior(Posterior):
    """q(z|x) = N(M m, M diag(s^2) M^T) with M = H_F ... H_1, H_i = I - 2 v_i v_i^T / |v_i|^2.

    M is orthogonal, so that log q(z) is the diagonal Gaussian's at M^T z, and the KL to N(0, I) its own.

    Args:
      diagonal: N(m, diag(s^2)), (batch, K).
      normals: v_1 ... v_F, each (batch, K).
    """

    def __init__(self, diagonal: DiagonalPosterior, normals: Sequence[tf.Tensor]):
        self.diagonal = diagonal
        self.normals = tuple(normals)

    def turn(self, z: tf.Tensor) -> tf.Tensor:
        """Returns M z, z of shape (..., batch, K)."""
        for normal in self.normals:
            z = flows.householder(z, normal)
        return z

    def turn_back(self, z: tf.Tensor) -> tf.Tensor:
        """Returns M^T z, z of shape (..., batch, K)."""
        for normal in reversed(self.normals):
            z = flows.householder(z, normal)
        return z

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_q = self.diagonal.from_noise(noise)
        return self.turn(z), log_q

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        return self.diagonal.log_prob(self.turn_back(z))

    def point(self) -> tf.Tensor:
        return self.turn(self.diagonal.mean)

    def kl_to_prior(self) -> tf.Tensor:
        return self.diagonal.kl_to_prior()

    def distribution(self) -> tfd.Distribution:
        # Row k is s_k e_k; turned, all of them are the columns of M diag(s).
        rows = tf.transpose(tf.linalg.diag(self.diagonal.stddev), (1, 0, 2))
        return distributions.RootNormal(self.point(), tf.transpose(self.turn(rows), (1, 2, 0)))

    def stopped(self) -> Posterior:
        return ReflectedPosterior(self.diagonal.stopped(), [tf.stop_gradient(normal) for normal in self.normals])


class ReflectionNormals(keras.layers.Layer):
    """v_1 = A_1 h + c_1 and v_{i+1} = A_{i+1} v_i + c_{i+1}: h (batch, H) -> F tensors (batch, K).

    Tomczak & Welling, arXiv 1611.09630, section 3; weights start as in the networks of Park et al., ICML 2019.
    """

    def __init__(self, num_flows: int, num_dims: int, seed: int = 0, **kwargs: Any):
        # Full precision under a mixed policy, as all densities are.
        super().__init__(dtype=keras.config.dtype_policy().variable_dtype, **kwargs)
        self.num_flows, self.num_dims, self.seed = num_flows, num_dims, seed

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        sizes = [input_shape[-1]] + [self.num_dims] * self.num_flows
        self.kernels, self.biases = [], []
        for index, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
            kernel, bias = (seeds.integer(self.seed, index, number) for number in range(2))
            self.kernels.append(self.add_weight(shape=(fan_in, fan_out), initializer=networks.vlae_kernel(kernel),
                                                name=f"kernel_{index}"))
            self.biases.append(self.add_weight(shape=(fan_out,), initializer=networks.vlae_bias(fan_in, bias),
                                               name=f"bias_{index}"))
        self.built = True

    def call(self, hidden: tf.Tensor) -> list[tf.Tensor]:
        found = []
        for kernel, bias in zip(self.kernels, self.biases):
            hidden = tf.matmul(hidden, tf.convert_to_tensor(kernel)) + bias
            found.append(hidden)
        return found


@register_keras_serializable("pae_zoo")
class HF(vae.VAE):
    """VAE with q(z|y) = N(M m, M diag(s^2) M^T), M the product of F reflections whose planes depend on y.

    Tomczak & Welling, Improving Variational Auto-Encoders using Householder Flow, arXiv 1611.09630, eq. 8-10. The
    normals of the planes are linear in the encoder's last hidden layer; see `encoder_features`. A draw costs O(F K).

    Args beyond `VAE`: num_flows, the number F.
    """

    divides = False
    takes_priors = priors.WITHOUT_VAMP

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", num_flows: int = 4, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.num_flows = int(num_flows)
        self.reflections = ReflectionNormals(self.num_flows, self.latent_dim, self.seed, name="reflections")
        self.reflections.build((None, networks.hidden_size(self.encoder, self.event_shape)))

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> ReflectedPosterior:
        mean, raw, hidden = self.encoder_features(y, training)
        return ReflectedPosterior(self.diagonal(mean, raw), self.reflections(hidden))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_flows": self.num_flows}


MODEL = HF
