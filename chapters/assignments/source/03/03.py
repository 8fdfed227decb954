# %% [markdown]
# # Assignment 03 · Masked image modelling
#
# Five tasks on chapter 03, from easy to hard: what goes into the network, what is asked back, and how to hide so that the answer is
# not next door. In all of them `mask` is bool, and **True is masked**.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `mask_tokens`: what the network sees | 3 | 15 |
# | 2 | `reconstruction_loss`: every image counts the same | 4 | 15 |
# | 3 | `blockwise_mask`: hide in blocks | 5 | 25 |
# | 4 | `average_distance`: how far away is the nearest hint? | 5 | 25 |
# | 5 | an open question | 3 | 10 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import torch
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. What the network sees · 3 points
#
# In SimMIM the embedding of a hidden patch is replaced by one learned vector, the mask token. Then every place, hidden or not, gets its
# position: a network that is not told *where* something is missing could give the same answer for all of it.
#
# `mask_tokens(tokens, mask, mask_token, positions)`: tokens `(B, N, D)`, mask `(B, N)` bool, mask_token `(D,)`, positions `(N, D)` →
# `(B, N, D)`. Leave the inputs as they are.

# %% nbgrader={"answer": "mask_tokens"}
def mask_tokens(tokens, mask, mask_token, positions):
    """tokens (B, N, D), mask (B, N) bool, True is masked, mask_token (D,), positions (N, D) -> what goes in, (B, N, D)."""
    ### BEGIN SOLUTION
    return torch.where(mask[..., None], mask_token, tokens) + positions
    ### END SOLUTION

# %% nbgrader={"test": "mask_tokens-1", "points": 1}
tokens = torch.tensor([[[1.0, 2], [3, 4], [5, 6]], [[-1, 0], [0, -2], [-3, 0]]])
mask = torch.tensor([[True, False, True], [False, True, False]])
positions = torch.tensor([[0.1, 0.2], [0.3, 0.5], [0.7, 0.9]])
check(mask_tokens, tokens, mask, torch.tensor([10.0, 20.0]), positions)

# %% nbgrader={"test": "mask_tokens-2", "points": 1}
# Hidden: more images, more tokens.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(11)
x, place, token = (torch.randn(*shape, generator=generator) for shape in ((4, 9, 5), (9, 5), (5,)))
gone = torch.rand(4, 9, generator=generator) < 0.6
slow = torch.stack([torch.stack([(token if gone[b, n] else x[b, n]) + place[n] for n in range(9)]) for b in range(4)])
same(mask_tokens(x.clone(), gone.clone(), token.clone(), place.clone()), slow, "for 4 images of 9 tokens")
### END HIDDEN TESTS

# %% nbgrader={"test": "mask_tokens-3", "points": 1}
# Hidden: nothing is hidden, and everything.
### BEGIN HIDDEN TESTS
same(mask_tokens(x.clone(), gone & False, token.clone(), place.clone()), x + place, "when nothing is hidden")
same(mask_tokens(x.clone(), gone | True, token.clone(), place.clone()), (token + place).expand(4, 9, 5), "when all is hidden")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Every image counts the same · 4 points
#
# Chapter 03 pools all hidden pixels of the batch. Where masks differ in size, an image with a large mask then counts more. Write the
# other way: the mean **squared** error over the numbers of a patch, averaged over the hidden patches $M_b$ of each image, and then over
# images:
#
# $$ \mathcal L = \frac1B \sum_b \frac{1}{|M_b|} \sum_{n \in M_b} \frac1P \lVert \hat x_{bn} - x_{bn} \rVert_2^2 $$
#
# `reconstruction_loss(predicted, patches, mask)`: `(B, N, P)` twice, mask `(B, N)` → a scalar. In every image something is hidden.

# %% nbgrader={"answer": "reconstruction_loss"}
def reconstruction_loss(predicted, patches, mask):
    """predicted (B, N, P), patches (B, N, P), mask (B, N) bool -> the mean over images of the mean over their hidden patches."""
    ### BEGIN SOLUTION
    error = (predicted - patches).square().mean(-1)                            # (B, N)
    return ((error * mask).sum(1) / mask.sum(1)).mean()
    ### END SOLUTION

# %% nbgrader={"test": "reconstruction_loss-1", "points": 1}
predicted = torch.tensor([[[0.0, 0, 1], [1, 1, 0], [2, 0, 1], [0, 1, 3]], [[1, 0, 0], [0, 0, 2], [3, 1, 1], [1, 2, 0]]])
patches = torch.tensor([[[1.0, 0, 0], [1, 3, 1], [0, 0, 1], [2, 2, 0]], [[1, 1, 1], [2, 0, 0], [0, 1, 1], [0, 0, 2]]])
mask = torch.tensor([[True, True, True, False], [False, False, False, True]])
check(reconstruction_loss, predicted, patches, mask)

# %% nbgrader={"test": "reconstruction_loss-2", "points": 1}
# Hidden: masks of equal size.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(21)
a, b = torch.randn(2, 3, 8, 12, generator=generator)
equal = torch.rand(3, 8, generator=generator).argsort(1) < 5
same(reconstruction_loss(a.clone(), b.clone(), equal.clone()), (a - b)[equal].square().mean(), "for masks of equal size")
### END HIDDEN TESTS

# %% nbgrader={"test": "reconstruction_loss-3", "points": 1}
# Hidden: masks of different sizes.
### BEGIN HIDDEN TESTS
sizes = torch.tensor([1, 4, 8])
uneven = torch.arange(8).expand(3, 8) < sizes[:, None]
each = [(a[i] - b[i])[uneven[i]].square().mean() for i in range(3)]
same(reconstruction_loss(a.clone(), b.clone(), uneven.clone()), sum(each) / 3, "for masks of 1, 4 and 8 patches")
### END HIDDEN TESTS

# %% nbgrader={"test": "reconstruction_loss-4", "points": 1}
# Hidden: what is said of visible patches does not matter, however wrong it is.
### BEGIN HIDDEN TESTS
wild = torch.where(uneven[..., None], a, 1e6)
same(reconstruction_loss(wild, b.clone(), uneven.clone()), sum(each) / 3, "when visible patches are a million off")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Hide in blocks · 5 points
#
# BEiT does not hide single patches: it throws rectangles on the grid until enough is hidden. Here the rectangles are drawn already, and
# you decide which count. Take them **in turn**. A box `(top, left, height, width)` hides its patches, as far as they lie inside the grid.
# It is taken if **at most `budget`** patches are hidden after it, and left out otherwise; a later, smaller box may still fit. A
# patch that was hidden before is not hidden twice.
#
# `blockwise_mask(rows, columns, boxes, budget)` → `(rows, columns)` bool, True is masked.

# %% nbgrader={"answer": "blockwise_mask"}
def blockwise_mask(rows, columns, boxes, budget):
    """boxes [(top, left, height, width), ...], taken in turn while at most `budget` patches are hidden -> (rows, columns) bool."""
    ### BEGIN SOLUTION
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for top, left, height, width in boxes:
        larger = mask.clone()
        larger[top:top + height, left:left + width] = True
        if larger.sum() <= budget:
            mask = larger
    return mask
    ### END SOLUTION

# %% nbgrader={"test": "blockwise_mask-1", "points": 1}
check(blockwise_mask, 3, 4, [(1, 2, 1, 2)], 12, case="one box")

# %% nbgrader={"test": "blockwise_mask-2", "points": 1}
boxes = [(0, 1, 2, 2), (1, 1, 1, 3), (3, 0, 1, 5), (2, 0, 1, 1), (3, 4, 1, 3), (2, 1, 1, 1)]
check(blockwise_mask, 4, 5, boxes, 8, case="six boxes")

# %% nbgrader={"test": "blockwise_mask-3", "points": 1}
# Hidden: forty boxes on 14 × 14 patches.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(31)
many = [tuple(box) for box in torch.stack([torch.randint(low, high, (40,), generator=generator)
                                           for low, high in ((0, 14), (0, 14), (1, 6), (1, 6))], 1).tolist()]
hidden = set()
for top, left, height, width in many:
    more = hidden | {(r, c) for r in range(top, min(top + height, 14)) for c in range(left, min(left + width, 14))}
    hidden = more if len(more) <= 75 else hidden
expected = torch.tensor([[(r, c) in hidden for c in range(14)] for r in range(14)])
same(blockwise_mask(14, 14, list(many), 75), expected, "for 40 boxes on 14 × 14 patches and a budget of 75")
### END HIDDEN TESTS

# %% nbgrader={"test": "blockwise_mask-4", "points": 1}
# Hidden: a grid that is wider than high, and a box that fits exactly.
### BEGIN HIDDEN TESTS
wide = torch.zeros(2, 6, dtype=torch.bool)
wide[:, 3:] = True
same(blockwise_mask(2, 6, [(0, 0, 2, 6), (0, 3, 2, 3), (0, 0, 1, 1)], 6), wide, "for a budget of 6 and a box of 6")
### END HIDDEN TESTS

# %% nbgrader={"test": "blockwise_mask-5", "points": 1}
# Hidden: no box, a budget of 0.
### BEGIN HIDDEN TESTS
nothing = torch.zeros(3, 2, dtype=torch.bool)
same(blockwise_mask(3, 2, [], 4), nothing, "without boxes")
same(blockwise_mask(3, 2, [(0, 0, 1, 1)], 0), nothing, "for a budget of 0")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. How far away is the nearest hint? · 5 points
#
# Two masks may hide the same share and be of very different use: where every hidden patch has a visible neighbour, its pixels can be guessed from
# next door. SimMIM measures this by *AvgDist*: the distance from a hidden patch to the **nearest visible** one, averaged over the hidden
# patches. Distances are straight (Euclidean), between centres, in patches: a neighbour below is 1 away, a diagonal one $\sqrt2$.
#
# `average_distance(mask)`: mask `(B, rows, columns)` bool → `(B,)`, one number for each image. Every image has a visible patch. If nothing
# is hidden, the answer is 0.

# %% nbgrader={"answer": "average_distance"}
def average_distance(mask):
    """mask (B, rows, columns) bool, True is masked -> mean distance in patches from hidden to nearest visible patches, (B,)."""
    ### BEGIN SOLUTION
    batch, rows, columns = mask.shape
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    between = torch.cdist(place, place)                                        # (N, N)
    hidden = mask.flatten(1)
    nearest = between.expand(batch, -1, -1).masked_fill(hidden[:, None], torch.inf).min(2).values
    return (nearest * hidden).sum(1) / hidden.sum(1).clamp(min=1)              # a visible patch is 0 from itself
    ### END SOLUTION

# %% nbgrader={"test": "average_distance-1", "points": 1}
masks = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]]).bool()
check(average_distance, masks[:1], case="one image")

# %% nbgrader={"test": "average_distance-2", "points": 1}
check(average_distance, masks, case="two images")

# %% nbgrader={"test": "average_distance-3", "points": 1}
# Hidden: six random masks on 5 × 7 patches.
### BEGIN HIDDEN TESTS
random_masks = torch.rand(6, 5, 7, generator=torch.Generator().manual_seed(41)) < torch.linspace(0.3, 0.9, 6)[:, None, None]
slow = []
for one in random_masks:
    hidden, seen = one.nonzero().tolist(), (~one).nonzero().tolist()
    slow.append(sum(min(((r - y) ** 2 + (c - x) ** 2) ** 0.5 for y, x in seen) for r, c in hidden) / len(hidden))
same(average_distance(random_masks.clone()), torch.tensor(slow), "for 6 random masks on 5 × 7 patches")
### END HIDDEN TESTS

# %% nbgrader={"test": "average_distance-4", "points": 1}
# Hidden: a mask that hides every second patch, like a chessboard.
### BEGIN HIDDEN TESTS
board = (torch.arange(6)[:, None] + torch.arange(4)) % 2 == 0
same(average_distance(board[None].clone()), torch.ones(1), "for a chessboard")
### END HIDDEN TESTS

# %% nbgrader={"test": "average_distance-5", "points": 1}
# Hidden: one image of the batch hides nothing.
### BEGIN HIDDEN TESTS
same(average_distance(torch.stack([board & False, board])), torch.tensor([0.0, 1.0]), "when the first image hides nothing")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Predict the ablation · 3 points
#
# SimMIM's default hides 60 % of an image of 224 pixels in cells of 32 pixels. Predict three changes to it, and say why:
# (a) the same 60 %, in cells of 4 pixels; (b) the loss over **all** pixels, hidden or not; (c) a mask token **without** positions, in a network
# that has no other positions either. For each: does the task get easier, harder or impossible, and what do you expect of the representation?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "ablation", "points": 3}
# **Model answer.** (a) Easier: nearly every hidden cell has a visible one beside it (a small AvgDist), so colours and edges can be
# continued from next door. The network learns short-range texture; the representation gets worse. (b) Easier on average, and a waste: for visible
# patches the network has only to copy what it sees. A part of its capacity goes into copying, and the loss looks better than the
# prediction is; the representation gets worse. (c) Impossible beyond an average: all mask tokens of an image are equal and, without positions,
# stay equal through every block (attention treats equal queries alike), so all hidden patches get the same prediction.
#
# **Rubric.** One point each: half for easier / harder / impossible, half for the reason. In (c) "harder" earns half if the reason says that
# mask tokens cannot be told apart. A different guess about the representation costs nothing if it is argued.
