# %% [markdown]
# # Assignment 07 · Frequency, shape and texture
#
# Five tasks on chapter 07, from easy to hard: take waves out of pictures, put them in, and measure them in tokens.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `high_part`: what is left without the broad waves? | 3 | 15 |
# | 2 | `swap_phase`: whose picture is it? | 4 | 15 |
# | 3 | `coloured_noise`: noise like that of photographs, of a given strength | 5 | 20 |
# | 4 | `radial_profile`: the spectrum of tokens in all directions | 5 | 25 |
# | 5 | an open question | 3 | 15 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import math

import torch
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. Without the broad waves · 3 points
#
# Entry $(i, j)$ of `torch.fft.fft2` belongs to a wave with $i$ cycles over the height and $j$ over the width of the picture, where an entry beyond the
# middle stands for a negative number of cycles: of 6 entries, the cycles are 0, 1, 2, −3, −2, −1. (`torch.fft.fftfreq(n, 1 / n)` gives them.) A wave
# is *broad* if it has at most `cycles` cycles **both** down and across, whatever the signs.
#
# `high_part(images, cycles)`: images `(B, C, H, W)` → the same images with all broad waves taken out, real numbers again. They need
# not be squares. Each channel is a picture of its own, and the mean, 0 cycles, goes as well.

# %% nbgrader={"answer": "high_part"}
def high_part(images, cycles):
    """images (B, C, H, W) -> the images without waves of at most `cycles` cycles down and across, real."""
    ### BEGIN SOLUTION
    down, across = (torch.fft.fftfreq(n, 1 / n).round().abs() for n in images.shape[-2:])
    broad = (down[:, None] <= cycles) & (across <= cycles)                     # (H, W)
    return torch.fft.ifft2(torch.fft.fft2(images) * ~broad).real
    ### END SOLUTION

# %% nbgrader={"test": "high_part-1", "points": 1}
images = torch.tensor([[[[9.0, 1, 4, 7, 2, 0], [3, 8, 2, 6, 1, 5], [5, 2, 9, 0, 8, 3], [7, 6, 1, 4, 3, 9]]]])
images = torch.cat([images, images.flip(3).square() / 5], 1)                   # (1, 2, 4, 6)
check(high_part, images, 1)

# %% nbgrader={"test": "high_part-2", "points": 1}
# Hidden: three images of 9 × 8 pixels, two cycles.
### BEGIN HIDDEN TESTS
x = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(11)).double() + 2
rest = x.clone()
for i in range(-2, 3):
    for j in range(-2, 3):
        angle = 2 * math.pi * (i * torch.arange(9.0).double()[:, None] / 9 + j * torch.arange(8.0).double() / 8)
        for part in (angle.cos(), angle.sin()):
            rest -= (x * part).mean((2, 3), keepdim=True) * part
same(high_part(x.clone(), 2), rest, "for 3 images of 9 × 8 pixels, 2 cycles")
### END HIDDEN TESTS

# %% nbgrader={"test": "high_part-3", "points": 1}
# Hidden: no cycles, which is the mean alone; and so many that nothing is left.
### BEGIN HIDDEN TESTS
same(high_part(x.clone(), 0), x - x.mean((2, 3), keepdim=True), "for 0 cycles: the images without their mean")
same(high_part(x.clone(), 4), torch.zeros_like(x), "for 4 cycles, and images of 9 × 8 pixels")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Whose picture is it? · 4 points
#
# An entry of the transform is a complex number. Its size, the **amplitude**, says how much of a wave there is, its angle, the **phase**, where the crests lie.
# Give an image the phases of another, and you have a cue conflict for frequencies: which of the two will a network see?
#
# `swap_phase(first, second)`: two of `(B, C, H, W)` → images with the amplitudes of `first` and the phases of `second`, real, each
# channel by itself. *Hint: `torch.polar(size, angle)` makes complex numbers.*

# %% nbgrader={"answer": "swap_phase"}
def swap_phase(first, second):
    """first, second (B, C, H, W) -> the amplitudes of the first with the phases of the second, (B, C, H, W), real."""
    ### BEGIN SOLUTION
    amplitude, phase = torch.fft.fft2(first).abs(), torch.fft.fft2(second).angle()
    return torch.fft.ifft2(torch.polar(amplitude, phase)).real
    ### END SOLUTION

# %% nbgrader={"test": "swap_phase-1", "points": 1}
first = torch.tensor([[[[9.0, 2, 5, 1], [0, 7, 3, 2], [4, 1, 8, 6]], [[1.0, 6, 0, 3], [2, 9, 4, 4], [8, 0, 5, 7]]]])
second = torch.tensor([[[[1.0, 4, 0, 7], [8, 3, 2, 2], [5, 9, 1, 0]], [[3.0, 0, 8, 1], [6, 2, 2, 9], [1, 5, 7, 0]]]])
check(swap_phase, first, second)

# %% nbgrader={"test": "swap_phase-2", "points": 1}
# Hidden: four images of 7 × 10 pixels.
### BEGIN HIDDEN TESTS
a, b = torch.randn(2, 4, 3, 7, 10, generator=torch.Generator().manual_seed(21)).double()
made = swap_phase(a.clone(), b.clone())
one, other = torch.fft.fft2(a), torch.fft.fft2(b)
same(made, torch.fft.ifft2(other * ((one.real**2 + one.imag**2) / (other.real**2 + other.imag**2)).sqrt()).real, "for 4 images of 7 × 10")
### END HIDDEN TESTS

# %% nbgrader={"test": "swap_phase-3", "points": 1}
# Hidden: an image with itself; and the first one twice as strong.
### BEGIN HIDDEN TESTS
same(swap_phase(a.clone(), a.clone()), a, "for an image with itself")
same(swap_phase(2 * a, a), 2 * a, "for an image twice as strong, with the phases of the image")
same(swap_phase(a.clone(), 5 * b), swap_phase(a.clone(), b.clone()), "when the second is five times as strong")
### END HIDDEN TESTS

# %% nbgrader={"test": "swap_phase-4", "points": 1}
# Hidden: a second image that is the first one, moved by some pixels.
### BEGIN HIDDEN TESTS
moved = a.roll((2, 3), (2, 3))
same(swap_phase(a.clone(), moved.clone()), moved, "for the phases of the same image, moved")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Noise like that of photographs · 5 points
#
# Noise of one band is made to find out where a network is sensitive. Photographs hold all frequencies at once, and less the higher they are: their amplitude
# falls about as one over the frequency. To make noise like that, transform **white** noise, multiply each entry by $f^{-\text{power}}$ with
#
# $$ f = \sqrt{u^2 + v^2}, $$
#
# where $u$ and $v$ are its frequencies down and across in cycles **a pixel** (`torch.fft.fftfreq(n)`), set the entry of frequency 0 to 0, and transform back.
# Then scale **each image** so that its root mean square, over channels and pixels, is `strength`.
#
# `coloured_noise(white, power, strength)`: white `(B, C, H, W)` → `(B, C, H, W)`. A power of 0 leaves all frequencies as they are, but for the mean.

# %% nbgrader={"answer": "coloured_noise"}
def coloured_noise(white, power, strength):
    """white (B, C, H, W) -> noise whose amplitude falls as f to the -power, root mean square of each image = strength."""
    ### BEGIN SOLUTION
    u, v = (torch.fft.fftfreq(n, dtype=torch.float64) for n in white.shape[-2:])
    f = (u[:, None].square() + v.square()).sqrt()                              # (H, W)
    f[0, 0] = 1.0                                                              # no division by zero
    factor = f**-power
    factor[0, 0] = 0.0
    noise = torch.fft.ifft2(torch.fft.fft2(white) * factor).real
    return strength * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    ### END SOLUTION

# %% nbgrader={"test": "coloured_noise-1", "points": 1}
white = torch.tensor([[[[1.0, -1, 1, 1, -1, -1], [-1, -1, 1, -1, 1, -1], [1, 1, -1, 1, 1, 1], [-1, 1, 1, -1, -1, 1]],
                       [[-2.0, 2, 2, 2, -2, 2], [2, 2, -2, 2, 2, -2], [-2, 2, 2, -2, 2, 2], [2, -2, -2, 2, 2, 2]]]])
white = torch.cat([white, 3 * white.flip(2).roll(1, 3) + 1])                   # (2, 2, 4, 6)
check(coloured_noise, white, 1.0, 2.0, case="power 1")

# %% nbgrader={"test": "coloured_noise-2", "points": 1}
check(coloured_noise, white, 2.0, 0.5, case="power 2")

# %% nbgrader={"test": "coloured_noise-3", "points": 1}
# Hidden: five images of 10 × 7 pixels, a power of 1.5.
### BEGIN HIDDEN TESTS
x = torch.randn(5, 3, 10, 7, generator=torch.Generator().manual_seed(31)).double() * torch.arange(1.0, 6).double().view(5, 1, 1, 1)
spectrum = torch.fft.fft2(x)
for i in range(10):
    for j in range(7):
        f = math.hypot(min(i, 10 - i) / 10, min(j, 7 - j) / 7)
        spectrum[..., i, j] *= f**-1.5 if f else 0
slow = torch.fft.ifft2(spectrum).real
slow = torch.stack([0.7 * one / one.pow(2).mean().sqrt() for one in slow])
same(coloured_noise(x.clone(), 1.5, 0.7), slow, "for 5 images of 10 × 7 pixels, power 1.5")
### END HIDDEN TESTS

# %% nbgrader={"test": "coloured_noise-4", "points": 1}
# Hidden: a power of 0: white noise without its mean.
### BEGIN HIDDEN TESTS
bare = x - x.mean((2, 3), keepdim=True)
same(coloured_noise(x.clone(), 0, 1.0), bare / bare.square().mean((1, 2, 3), keepdim=True).sqrt(), "for a power of 0")
### END HIDDEN TESTS

# %% nbgrader={"test": "coloured_noise-5", "points": 1}
# Hidden: strength and mean of each image, whatever the white noise.
### BEGIN HIDDEN TESTS
made = coloured_noise(1000 * x + 50, 1, 0.22)
same(made.square().mean((1, 2, 3)).sqrt(), torch.full((5,), 0.22), "the root mean square of each image")
same(made.mean((2, 3)), torch.zeros(5, 3), "the mean of each channel")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. The spectrum of tokens in all directions · 5 points
#
# Park et al. walk from the centre of the spectrum along one diagonal. Most entries are not on it. Use them all, in rings. The patch tokens of an image
# are a picture of rows × columns with $D$ channels; with $i$ cycles over its height and $j$ over its width,
#
# $$ F(i, j) = \frac1{BD} \sum_{b, d} \ln\big(|\mathrm{FFT}(z_{b,d})_{ij}| + 10^{-6}\big), \qquad
# R(r) = \operatorname*{mean}_{\text{ring } r} F(i, j) - F(0, 0), $$
#
# where ring $r$ holds all entries $(i, j)$ whose $\sqrt{i^2 + j^2}$ rounds to $r$, and $i$ and $j$ count negative cycles too, as in task 1.
#
# `radial_profile(tokens, prefix, rows, columns)`: tokens `(B, prefix + rows · columns, D)`, of which the first `prefix` (CLS, registers) are no
# patches, patch $n$ in row $n$ // columns → `(K + 1,)`, for $r$ from 0 to $K$ = half the shorter side, rounded down.

# %% nbgrader={"answer": "radial_profile"}
def radial_profile(tokens, prefix, rows, columns):
    """tokens (B, prefix + rows columns, D) -> R(r), mean log amplitude of rings less that of 0 cycles, (K + 1,)."""
    ### BEGIN SOLUTION
    maps = tokens[:, prefix:].unflatten(1, (rows, columns))                    # (B, rows, columns, D)
    spectrum = (torch.fft.fft2(maps, dim=(1, 2)).abs() + 1e-6).log().mean((0, 3))
    i, j = (torch.fft.fftfreq(n, 1 / n) for n in (rows, columns))
    ring = (i[:, None].square() + j.square()).sqrt().round()
    return torch.stack([spectrum[ring == r].mean() for r in range(min(rows, columns) // 2 + 1)]) - spectrum[0, 0]
    ### END SOLUTION

# %% nbgrader={"test": "radial_profile-1", "points": 1}
place = torch.arange(2 * 43 * 3)
tokens = (place**2 * 7 % 31 - place * 5 % 17 + 9.0).reshape(2, 43, 3) * torch.tensor([0.2, 1.0, 4.0])
check(radial_profile, tokens, 1, 6, 7, case="CLS and 6 rows of 7")

# %% nbgrader={"test": "radial_profile-2", "points": 1}
check(radial_profile, tokens, 3, 8, 5, case="3 tokens before 8 rows of 5")

# %% nbgrader={"test": "radial_profile-3", "points": 1}
# Hidden: three images of 9 × 8 patches, no prefix.
### BEGIN HIDDEN TESTS
def by_loops(tokens, rows, columns):
    maps = tokens.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)
    logs = (torch.fft.fft2(maps).abs() + 1e-6).log().mean((0, 1)).tolist()
    rings = {}
    for i in range(rows):
        for j in range(columns):
            rings.setdefault(round(math.hypot(min(i, rows - i), min(j, columns - j))), []).append(logs[i][j])
    return torch.tensor([sum(rings[r]) / len(rings[r]) - logs[0][0] for r in range(min(rows, columns) // 2 + 1)])
x = torch.randn(3, 72, 6, generator=torch.Generator().manual_seed(41)).double() + torch.arange(6.0).double()
same(radial_profile(x.clone(), 0, 9, 8), by_loops(x, 9, 8), "for 3 images of 9 × 8 patches, no prefix")
### END HIDDEN TESTS

# %% nbgrader={"test": "radial_profile-4", "points": 1}
# Hidden: a long prefix that is much louder than the patches.
### BEGIN HIDDEN TESTS
loud = torch.cat([100 * torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(42)).double(), x], 1)
same(radial_profile(loud, 9, 8, 9), by_loops(x, 8, 9), "for 9 loud tokens before 8 × 9 patches")
### END HIDDEN TESTS

# %% nbgrader={"test": "radial_profile-5", "points": 1}
# Hidden: tokens that are all the same. Is there the log of a zero?
### BEGIN HIDDEN TESTS
flat = torch.full((2, 16, 3), 2.0).double()
same(radial_profile(flat, 0, 4, 4), torch.tensor([0.0, 1, 1]) * (math.log(1e-6) - math.log(32 + 1e-6)), "for tokens that are all the same")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Predict the ablation · 3 points
#
# (a) In each image, the 64 patch tokens of a network's last block are **shuffled**, every image in its own way, before they are measured. What happens to $F(0, 0)$,
# to the profile $R$ of task 4, and to a linear probe on the mean of the patch tokens? (b) A classifier loses 1, 4 and 9 points of accuracy when noise of
# equal energy at 0.1 π, 0.5 π and 0.9 π is added to its images. Now a perfect low-pass filter is put before the network, which lets nothing above 0.6 π through, and
# the classifier is trained again, with the filter. Predict the three losses if the noise is added **before** the filter, and say what could happen to 4 and 9 if
# it is added **after** it. (c) Someone finds that $R$ at the last ring is −3.1 for network A and −2.0 for B, and writes that A "has thrown away high
# frequencies". Name one change of A's tokens that would give −3.1 without throwing anything away, and what you would measure to rule it out.
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "ablation", "points": 3}
# **Model answer.** (a) F(0, 0) comes from the sum of the tokens of a channel, which no order changes. Neighbours no longer resemble each other: all waves get about the
# same amplitude (white), so the profile becomes flat beyond r = 0; low rings fall, high ones rise. The probe sees the mean and nothing changes.
# (b) Before: at 0.9 π nothing of the noise arrives, the loss is 0; at 0.1 π and 0.5 π noise passes, so about 1 and 4 remain (if training
# with the filter did not make the network lean more on what is left). After: noise reaches the network at all three. At 0.5 π about as before; at 0.9 π there was
# nothing in training, so it may ignore that band (loss falls) or, as it never met anything there, be thrown off (loss grows): to be measured. (c) A vector common to all
# tokens raises F(0, 0) alone, and every difference to it falls. Take out the mean token over images and places, and measure again
# (or compare rings with each other, without ring 0); with an untrained network as a control.
#
# **Rubric.** (a) 1 point: all three, half for two. (b) 1 point: 0 at 0.9 π and about the same at the others before the filter, and a reasoned answer for after;
# half for the first alone. (c) 1 point: a constant (or anything else that raises F(0, 0) and leaves the last ring as it is) and a measurement without it; half
# for one.
