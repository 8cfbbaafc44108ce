"""The quadratic forms of one Gram matrix for every datum and every unit of the layer below, as products of pairs.

With W the kernel of a layer, s_n the slopes of what it makes by datum n, and G the Gram matrix above, unit j has

    sum_kl s_nk W_jk G_kl W_jl s_nl = sum_kl (s_nk s_nl) (G_kl W_jk W_jl),

a product of two matrices over pairs (k, l), of which one half stands for both, as G is symmetric. The first matrix
knows nothing of units, the second nothing of data, so that both stay small where the forms of all data and units at
once, each a vector times G, make and read (data, units, values) numbers several times.
"""

import tensorflow as tf

# Side of the blocks of G that are taken one after another: what is put together for one stays near the processor. Of
# the blocks on the diagonal one half is multiplied in vain.
BLOCK = 64


def forms(slopes: tf.Tensor, kernel: tf.Tensor, gram: tf.Tensor) -> tf.Tensor:
    """Returns sum_kl s_nk W_jk G_kl W_jl s_nl, (data, units).

    Args:
      slopes: s (data, values).
      kernel: W (units, values).
      gram: the lower half of the symmetric G (values, values); what is above the diagonal is not read.
    """
    more = -gram.shape[0] % BLOCK
    # Below the diagonal each pair stands for its mirror image too.
    half = tf.linalg.set_diag(2 * tf.linalg.band_part(gram, -1, 0), tf.linalg.diag_part(gram))
    half = tf.pad(half, [[0, more], [0, more]])
    slopes, kernel = _blocks(slopes, more), _blocks(kernel, more)
    numbers = [(row, column) for row in range(kernel.shape[0]) for column in range(row + 1)]
    rows, columns = (tf.constant(each) for each in zip(*numbers))

    def add(index, total):
        row, column = rows[index], columns[index]
        block = tf.slice(half, (BLOCK * row, BLOCK * column), (BLOCK, BLOCK))
        of_data = slopes[row][:, :, None] * slopes[column][:, None]
        of_units = kernel[row][:, :, None] * (kernel[column][:, None] * block)
        of_data, of_units = (tf.reshape(one, (-1, BLOCK**2)) for one in (of_data, of_units))
        return index + 1, total + tf.ensure_shape(tf.matmul(of_data, of_units, transpose_b=True), total.shape)

    total = tf.matmul(tf.zeros_like(slopes[0, :, :1]), kernel[0, :, :1], transpose_b=True)
    return tf.while_loop(lambda index, _: index < len(numbers), add, (tf.constant(0), total), parallel_iterations=1)[1]


def num_pairs(values: int) -> int:
    """Returns how many pairs are multiplied."""
    side = -(-values // BLOCK)
    return side * (side + 1) // 2 * BLOCK**2


def _blocks(matrix: tf.Tensor, more: int) -> tf.Tensor:
    """(rows, values) -> (blocks, rows, BLOCK)."""
    padded = tf.pad(matrix, [[0, 0], [0, more]])
    return tf.transpose(tf.reshape(padded, (-1, padded.shape[1] // BLOCK, BLOCK)), (1, 0, 2))
