# %% [markdown]
# # Assignment 02 · Contrastive learning
#
# Five tasks on chapter 02, from easy to hard: the parts of MoCo and DINO that the chapter does not write out.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `momentum_at`: a momentum that grows along a cosine | 3 | 10 |
# | 2 | `momentum_keys`: keys from a slow copy, in the right order | 4 | 20 |
# | 3 | `info_nce_queue`: InfoNCE with a queue of old keys | 5 | 20 |
# | 4 | `self_distillation`: DINO's loss | 5 | 25 |
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
import torch.nn.functional as F
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. A momentum that grows · 3 points
#
# BYOL, DINO and MoCo v3 let the momentum grow during training, along half a cosine: it starts at `start`, changes slowly at first and
# at last, and arrives at `end` **in the last step**. Steps count from 0, so the last of `steps` steps is number `steps - 1`.
#
# `momentum_at(step, steps, start, end)` → a number. There are at least two steps.

# %% nbgrader={"answer": "momentum_at"}
def momentum_at(step, steps, start, end):
    """The momentum in step 0 .. steps - 1, from start to end along half a cosine."""
    ### BEGIN SOLUTION
    progress = step / (steps - 1)
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2
    ### END SOLUTION

# %% nbgrader={"test": "momentum_at-1", "points": 1}
check(momentum_at, 1, 7, 0.9, 1.0, case="step 1 of 7")
check(momentum_at, 6, 7, 0.9, 1.0, case="the last step")

# %% nbgrader={"test": "momentum_at-2", "points": 1}
# Hidden: a long training, at its first step, its middle and its end.
### BEGIN HIDDEN TESTS
for step, expected in ((0, 0.99), (500, 0.995), (1000, 1.0)):
    same(momentum_at(step, 1001, 0.99, 1.0), expected, f"in step {step} of 1001, from 0.99 to 1", tolerance=1e-6)
### END HIDDEN TESTS

# %% nbgrader={"test": "momentum_at-3", "points": 1}
# Hidden: an end below 1, and a momentum that falls.
### BEGIN HIDDEN TESTS
same(momentum_at(3, 13, 0.5, 0.9), 0.5 + 0.4 * math.sin(math.pi / 8) ** 2, "in step 3 of 13, from 0.5 to 0.9", tolerance=1e-6)
same(momentum_at(1, 3, 0.8, 0.2), 0.5, "half way from 0.8 to 0.2", tolerance=1e-6)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Keys from a slow copy · 4 points
#
# Take the smallest encoder there is, one matrix: an image $x$ of $D$ numbers becomes $xW$, normalised to length 1. The online matrix
# learns; `fast[t]` is what it is in step $t$. The momentum matrix follows it, and makes the keys. In **each** step, first
#
# $$ W_{\text{slow}} \leftarrow m\, W_{\text{slow}} + (1 - m)\, W_{\text{fast}}^{(t)}, $$
#
# and **then** the keys of that step are made with it.
#
# `momentum_keys(slow, fast, views, momentum)`: `slow` `(D, E)` before the first step, `fast` `(T, D, E)`, `views` `(T, B, D)` → keys
# `(T, B, E)`. Leave the inputs as they are.

# %% nbgrader={"answer": "momentum_keys"}
def momentum_keys(slow, fast, views, momentum):
    """slow (D, E) before training, fast (T, D, E), views (T, B, D) -> keys (T, B, E) of length 1."""
    ### BEGIN SOLUTION
    keys = []
    for online, images in zip(fast, views):
        slow = momentum * slow + (1 - momentum) * online
        keys.append(F.normalize(images @ slow, dim=1))
    return torch.stack(keys)
    ### END SOLUTION

# %% nbgrader={"test": "momentum_keys-1", "points": 1}
slow = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
fast = torch.tensor([[[0.0, 2.0], [1.0, 0.0]], [[3.0, 1.0], [0.0, -1.0]]])
views = torch.tensor([[[1.0, 0.0], [1.0, 2.0]], [[0.0, 1.0], [2.0, 1.0]]])
check(momentum_keys, slow, fast, views, 0.75)

# %% nbgrader={"test": "momentum_keys-2", "points": 1}
# Hidden: a single step.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(21)
w0, w, x = (torch.randn(*shape, generator=generator) for shape in ((4, 3), (6, 4, 3), (6, 5, 4)))
once = x[0] @ (0.9 * w0 + 0.1 * w[0])
same(momentum_keys(w0.clone(), w[:1].clone(), x[:1].clone(), 0.9), (once / once.norm(dim=1, keepdim=True))[None], "after one step")
### END HIDDEN TESTS

# %% nbgrader={"test": "momentum_keys-3", "points": 1}
# Hidden: six steps.
### BEGIN HIDDEN TESTS
shares = [[0.9 ** (t - s) * 0.1 for s in range(t + 1)] for t in range(6)]
weights = [0.9 ** (t + 1) * w0 + sum(share * one for share, one in zip(shares[t], w)) for t in range(6)]
raw = torch.stack([x[t] @ weights[t] for t in range(6)])
same(momentum_keys(w0.clone(), w.clone(), x.clone(), 0.9), raw / raw.norm(dim=2, keepdim=True), "after six steps")
### END HIDDEN TESTS

# %% nbgrader={"test": "momentum_keys-4", "points": 1}
# Hidden: a momentum of 0 and of 1.
### BEGIN HIDDEN TESTS
for momentum, expected in ((0.0, torch.einsum("tbd,tde->tbe", x, w)), (1.0, x @ w0)):
    same(momentum_keys(w0.clone(), w.clone(), x.clone(), momentum), expected / expected.norm(dim=2, keepdim=True),
         f"for a momentum of {momentum:g}")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. InfoNCE with a queue · 5 points
#
# The first two versions of MoCo take their negatives not from the batch but from a **queue** of keys of earlier batches. Query $i$ has
# one positive, key $i$ of its own batch, and $K$ negatives, all of the queue:
#
# $$ \mathcal L = -\frac1B \sum_i \log \frac{\exp(q_i \cdot k_i / \tau)}{\exp(q_i \cdot k_i / \tau) + \sum_{j=1}^{K} \exp(q_i \cdot n_j / \tau)} $$
#
# with all vectors scaled to length 1. The other keys of the batch do not take part.
#
# `info_nce_queue(queries, keys, queue, temperature)`: queries and keys `(B, D)`, queue `(K, D)`, of any length → a scalar.
# Temperatures go down to 0.01.

# %% nbgrader={"answer": "info_nce_queue"}
def info_nce_queue(queries, keys, queue, temperature):
    """queries (B, D), keys (B, D), queue (K, D) of negatives, of any length -> the mean loss, a scalar."""
    ### BEGIN SOLUTION
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    positive = (queries * keys).sum(1, keepdim=True)                           # (B, 1)
    logits = torch.cat([positive, queries @ queue.T], dim=1) / temperature     # (B, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long))
    ### END SOLUTION

# %% nbgrader={"test": "info_nce_queue-1", "points": 1}
queries = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
keys = torch.tensor([[1.0, 1.0, 0.0], [0.5, 2.0, 0.0]])
queue = torch.tensor([[0.0, 0.0, 3.0], [1.0, -1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
check(info_nce_queue, queries, keys, queue, 0.5)

# %% nbgrader={"test": "info_nce_queue-2", "points": 1}
check(info_nce_queue, queries, keys, queue[:1], 0.2, case="one negative")

# %% nbgrader={"test": "info_nce_queue-3", "points": 1}
# Hidden: five queries, a queue of twelve.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(31)
q, k, n = (torch.randn(rows, 7, generator=generator) for rows in (5, 5, 12))
slow = 0.0
for one, its in zip(q, k):
    right = math.exp(float(torch.cosine_similarity(one, its, dim=0)) / 0.3)
    wrong = sum(math.exp(float(torch.cosine_similarity(one, other, dim=0)) / 0.3) for other in n)
    slow -= math.log(right / (right + wrong)) / 5
same(info_nce_queue(q.clone(), k.clone(), n.clone(), 0.3), slow, "for 5 queries and a queue of 12")
### END HIDDEN TESTS

# %% nbgrader={"test": "info_nce_queue-4", "points": 1}
# Hidden: a guess among equals.
### BEGIN HIDDEN TESTS
alike = torch.ones(3, 4)
same(info_nce_queue(alike, 2 * alike, torch.ones(15, 4), 0.2), math.log(16), "when all keys are the same, 15 of them in the queue")
### END HIDDEN TESTS

# %% nbgrader={"test": "info_nce_queue-5", "points": 1}
# Hidden: a temperature of 0.01. Is there an `exp` that overflows, or the log of a zero?
### BEGIN HIDDEN TESTS
same(info_nce_queue(q.clone(), -q, q[:1].clone(), 0.01),
     (torch.cosine_similarity(q, q[:1], dim=1) * 100 + 100).mean(), "for keys opposite to their queries, temperature 0.01", 1e-3)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. DINO's loss · 5 points
#
# DINO has no negatives. Student and teacher each give an image $K$ numbers, which a softmax turns into shares. The teacher's are
# **centred**, by taking out a running mean $c$, and **sharpened**, by a low temperature; the student must say the same:
#
# $$ p^t = \operatorname{softmax}\Big(\frac{t - c}{\tau_t}\Big), \qquad p^s = \operatorname{softmax}\Big(\frac{s}{\tau_s}\Big), \qquad
# \mathcal L = -\frac1B \sum_b \sum_k p^t_{bk} \log p^s_{bk} $$
#
# `self_distillation(student, teacher, centre, student_temperature, teacher_temperature)`: student and teacher `(B, K)`, centre
# `(K,)` → a scalar. Outputs may be in the hundreds.

# %% nbgrader={"answer": "self_distillation"}
def self_distillation(student, teacher, centre, student_temperature, teacher_temperature):
    """student (B, K), teacher (B, K), centre (K,) -> the cross-entropy of the student under the teacher, a scalar."""
    ### BEGIN SOLUTION
    target = ((teacher - centre) / teacher_temperature).softmax(1)
    return -(target * (student / student_temperature).log_softmax(1)).sum(1).mean()
    ### END SOLUTION

# %% nbgrader={"test": "self_distillation-1", "points": 1}
student = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]])
teacher = torch.tensor([[0.5, 0.3, 0.0], [0.4, 0.9, 0.2]])
check(self_distillation, student, teacher, torch.zeros(3), 0.5, 0.25, case="a centre of 0")

# %% nbgrader={"test": "self_distillation-2", "points": 1}
check(self_distillation, student, teacher, torch.tensor([0.4, 0.6, 0.1]), 0.5, 0.25)

# %% nbgrader={"test": "self_distillation-3", "points": 1}
# Hidden: six images, nine numbers each.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(41)
s, t, c = torch.randn(6, 9, generator=generator), torch.randn(6, 9, generator=generator), torch.randn(9, generator=generator)
slow = 0.0
for one, other in zip(s.double(), t.double()):
    goal = [math.exp(float(a - b) / 0.4) for a, b in zip(other, c)]
    said = [math.exp(float(a) / 0.7) for a in one]
    slow -= sum(a / sum(goal) * math.log(b / sum(said)) for a, b in zip(goal, said)) / 6
same(self_distillation(s.clone(), t.clone(), c.clone(), 0.7, 0.4), slow, "for 6 images of 9 numbers")
### END HIDDEN TESTS

# %% nbgrader={"test": "self_distillation-4", "points": 1}
# Hidden: a teacher that says nothing once its centre is taken out.
### BEGIN HIDDEN TESTS
flat = self_distillation(torch.zeros(4, 5), c[:5].expand(4, 5).clone(), c[:5].clone(), 0.1, 0.04)
same(flat, math.log(5), "for a teacher equal to its centre, and an even student")
### END HIDDEN TESTS

# %% nbgrader={"test": "self_distillation-5", "points": 1}
# Hidden: outputs in the hundreds. Is there the log of a zero?
### BEGIN HIDDEN TESTS
loud = torch.tensor([[300.0, 0.0, 0.0]])
same(self_distillation(loud, loud.roll(1, 1), torch.zeros(3), 1.0, 1.0), 300.0, "for a student who is sure of something else", 1e-3)
### END HIDDEN TESTS

# %% [markdown]
# ## 5. What went wrong? · 3 points
#
# Three people train MoCo v3 on batches of 128 images, temperature 0.2, and look at the plain InfoNCE (no factor in front), the share
# of queries that find their key, and the *spread* of the keys (their standard deviation times $\sqrt D$: 1 if they fill the sphere, 0
# if they are all the same) at the end:
#
# | | InfoNCE | finds its key | spread |
# |---|---|---|---|
# | Ada | 4.85 | 1 % | 0.00 |
# | Ben | 0.02 | 100 % | 0.95 |
# | Cleo | 1.10 | 71 % | 0.93 |
#
# (a) What happened to Ada, and what is 4.85? (b) Ben's k-NN accuracy is no better than that of an untrained network. He forgot
# something in the data: what, and why does it give these numbers? (c) Cleo's run is healthy. Would a batch of 1,024 images raise or lower her
# InfoNCE, and does that say that the network is better or worse?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "diagnosis", "points": 3}
# **Model answer.** (a) Collapse: all keys are the same (spread 0), so every query guesses among 128, and the loss is log 128 = 4.85.
# (b) His two views are the same image, without (or with hardly any) augmentation, or leak it in another way: a query finds its key by any detail, colours or
# noise, so nothing has to be learned. (c) It raises it: there are eight times as many keys to be told apart (a guess
# costs log 1024 = 6.93 instead of 4.85). Losses of different batch sizes cannot be compared, so it says nothing about the network.
#
# **Rubric.** (a) 1 point: collapse and log 128; half for one of them. (b) 1 point: views without difference, with the reason that a
# shortcut suffices; half without the reason. Another leak that makes the two views trivially alike counts too.
# (c) 1 point: raises, and not comparable; half for one of them.
