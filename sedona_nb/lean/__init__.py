"""The relaxed network as an explicit program: first- and second-order passes without a graph.

`adjoint` builds the exact hypergradient from two passes over this program, which exists because automatic
differentiation keeps every intermediate result of every head, and here none has to be kept for long:

- a plain pass gives the losses and the mixed gradient G(w, alpha, beta; batch),
- a dual pass carries tangents along and gives the gradient of <G, p> for a direction p.

Activations are (k, B, H, W, C), channels last: k = 1 holds values, k = 2 values and tangents. Everything that is
element-wise works on a few pictures at a time, so that intermediate results stay in the processor's cache.

convolutions    bilinear maps y = op(x, W) and their transposes
normalization   BatchNorm and ReLU on chunks, plain and dual
nodes           convolution + BatchNorm + ReLU as one unit; the memory for maps
junctions       what connects units: values with several consumers, pooling, residuals
gates           what consumers see of a junction: a share of its cotangent, some of its channels
tails           1x1 convolution + BatchNorm + ReLU + average pooling without its output ever being stored
head_group      all heads of one layer, or of several layers alike, in one go
classifier      the last layer's head
reading         from modules to nodes
assembly        the whole network, and the ways up and down through it
program         the passes
replay          passes recorded as CUDA graphs
parameters      all weights as one vector
"""
