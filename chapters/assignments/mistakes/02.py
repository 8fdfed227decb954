"""Usual mistakes of assignment 02: task__mistake, and what a check says to it."""


def momentum_at__linear(step, steps, start, end):
    """This is a straight line; a half cosine changes slowly at first and at last."""
    return start + (end - start) * step / (steps - 1)


def momentum_at__never_arrives(step, steps, start, end):
    """The last step is number steps - 1: divide by steps - 1, or the end is never reached."""
    return end - (end - start) * (1 + math.cos(math.pi * step / steps)) / 2


def momentum_at__whole_cosine(step, steps, start, end):
    """That is a whole cosine, which comes back to the start; half a cosine goes to π, not to 2π."""
    return end - (end - start) * (1 + math.cos(2 * math.pi * step / (steps - 1))) / 2


def momentum_at__backwards(step, steps, start, end):
    """It runs backwards, from `end` to `start`: cos 0 is 1."""
    return start + (end - start) * (1 + math.cos(math.pi * step / (steps - 1))) / 2


def momentum_at__quarter(step, steps, start, end):
    """That is a quarter of a cosine: use (1 + cos πp) / 2, with p from 0 to 1."""
    return end - (end - start) * math.cos(math.pi / 2 * step / (steps - 1))


def momentum_at__to_one(step, steps, start, end):
    """Unseen: the end is taken to be 1."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / (steps - 1))) / 2


def momentum_keys__update_last(slow, fast, views, momentum):
    """You update the momentum matrix after the keys are made; the update comes first in each step."""
    keys = []
    for online, images in zip(fast, views):
        keys.append(F.normalize(images @ slow, dim=1))
        slow = momentum * slow + (1 - momentum) * online
    return torch.stack(keys)


def momentum_keys__swapped(slow, fast, views, momentum):
    """The momentum is the share of the old slow matrix; you gave it to the fast one."""
    return momentum_keys(slow, fast, views, 1 - momentum)


def momentum_keys__from_the_start(slow, fast, views, momentum):
    """Each step starts again from the matrix before training; it should go on from the step before."""
    return torch.stack([F.normalize(x @ (momentum * slow + (1 - momentum) * w), dim=1) for w, x in zip(fast, views)])


def momentum_keys__not_normalised(slow, fast, views, momentum):
    """The keys need length 1."""
    keys = []
    for online, images in zip(fast, views):
        slow = momentum * slow + (1 - momentum) * online
        keys.append(images @ slow)
    return torch.stack(keys)


def momentum_keys__over_the_batch(slow, fast, views, momentum):
    """Each key has length 1, dim=1; you normalised each number over the batch."""
    keys = []
    for online, images in zip(fast, views):
        slow = momentum * slow + (1 - momentum) * online
        keys.append(F.normalize(images @ slow, dim=0))
    return torch.stack(keys)


def momentum_keys__online(slow, fast, views, momentum):
    """These are the keys of the online matrix; the slow one makes them."""
    return F.normalize(views @ fast, dim=2)


def momentum_keys__final(slow, fast, views, momentum):
    """You make all keys with the matrix of the last step; each step has its own."""
    for online in fast:
        slow = momentum * slow + (1 - momentum) * online
    return F.normalize(views @ slow, dim=2)


def _loss(queries, keys, queue, temperature, normalise=(True, True, True), reduction="mean"):
    queries, keys, queue = (F.normalize(x, dim=1) if yes else x for x, yes in zip((queries, keys, queue), normalise))
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long), reduction=reduction)


def info_nce_queue__not_normalised(queries, keys, queue, temperature):
    """The vectors need length 1 before they are compared."""
    return _loss(queries, keys, queue, temperature, (False, False, False))


def info_nce_queue__queue_not_normalised(queries, keys, queue, temperature):
    """The keys in the queue need length 1 too."""
    return _loss(queries, keys, queue, temperature, (True, True, False))


def info_nce_queue__no_temperature(queries, keys, queue, temperature):
    """The temperature is missing."""
    return _loss(queries, keys, queue, 1.0)


def info_nce_queue__times_temperature(queries, keys, queue, temperature):
    """Divide the similarities by the temperature; you multiply."""
    return _loss(queries, keys, queue, 1 / temperature)


def info_nce_queue__batch_too(queries, keys, queue, temperature):
    """The other keys of the batch take part; the negatives are those of the queue alone."""
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    return F.cross_entropy(queries @ torch.cat([keys, queue]).T / temperature, torch.arange(len(queries)))


def info_nce_queue__batch_only(queries, keys, queue, temperature):
    """This is the loss of chapter 02, with the batch as negatives; the queue is not used."""
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    return F.cross_entropy(queries @ keys.T / temperature, torch.arange(len(queries)))


def info_nce_queue__no_positive_below(queries, keys, queue, temperature):
    """The positive is missing below the line: it is one of the 1 + K that the query chooses from."""
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    return ((queries @ queue.T / temperature).logsumexp(1) - (queries * keys).sum(1) / temperature).mean()


def info_nce_queue__sum(queries, keys, queue, temperature):
    """That is the sum over queries; take the mean."""
    return _loss(queries, keys, queue, temperature, reduction="sum")


def info_nce_queue__sign(queries, keys, queue, temperature):
    """The minus sign is missing: a loss is positive."""
    return -_loss(queries, keys, queue, temperature)


def info_nce_queue__factor(queries, keys, queue, temperature):
    """MoCo v3's factor 2τ does not belong here."""
    return 2 * temperature * _loss(queries, keys, queue, temperature)


def info_nce_queue__last_class(queries, keys, queue, temperature):
    """The right class is where the positive stands: here you look for it at the other end of the logits."""
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.full((len(queries),), len(queue)))


def info_nce_queue__log_of_zero(queries, keys, queue, temperature):
    """Unseen: exp overflows, or the share of the positive is 0 and its log minus infinity."""
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    right, wrong = ((queries * keys).sum(1) / temperature).exp(), (queries @ queue.T / temperature).exp().sum(1)
    return -(right / (right + wrong)).log().mean()


def self_distillation__centre_added(student, teacher, centre, student_temperature, teacher_temperature):
    """Take the centre out of the teacher's output; you add it."""
    return self_distillation(student, teacher, -centre, student_temperature, teacher_temperature)


def self_distillation__no_centre(student, teacher, centre, student_temperature, teacher_temperature):
    """The centre has no effect: take it out of the teacher's output."""
    return self_distillation(student, teacher, 0 * centre, student_temperature, teacher_temperature)


def self_distillation__student_centred(student, teacher, centre, student_temperature, teacher_temperature):
    """Only the teacher is centred; you took the centre out of the student too."""
    return self_distillation(student - centre, teacher, centre, student_temperature, teacher_temperature)


def self_distillation__centre_last(student, teacher, centre, student_temperature, teacher_temperature):
    """Take the centre out first, then divide by the temperature."""
    return self_distillation(student, teacher / teacher_temperature, centre, student_temperature, 1.0)


def self_distillation__temperatures(student, teacher, centre, student_temperature, teacher_temperature):
    """The two temperatures are swapped."""
    return self_distillation(student, teacher, centre, teacher_temperature, student_temperature)


def self_distillation__over_images(student, teacher, centre, student_temperature, teacher_temperature):
    """The softmax runs over the images: the shares of the K numbers of one image must sum to 1."""
    target = ((teacher - centre) / teacher_temperature).softmax(0)
    return -(target * (student / student_temperature).log_softmax(0)).sum(1).mean()


def self_distillation__roles(student, teacher, centre, student_temperature, teacher_temperature):
    """Student and teacher changed places: the logarithm belongs to the student."""
    target = ((teacher - centre) / teacher_temperature).log_softmax(1)
    return -(target * (student / student_temperature).softmax(1)).sum(1).mean()


def self_distillation__mean_over_all(student, teacher, centre, student_temperature, teacher_temperature):
    """Sum over the K numbers, and take the mean over images only."""
    return self_distillation(student, teacher, centre, student_temperature, teacher_temperature) / student.shape[1]


def self_distillation__sum(student, teacher, centre, student_temperature, teacher_temperature):
    """That is the sum over images; take the mean."""
    return self_distillation(student, teacher, centre, student_temperature, teacher_temperature) * len(student)


def self_distillation__kl(student, teacher, centre, student_temperature, teacher_temperature):
    """This is the Kullback-Leibler divergence; the entropy of the teacher is not taken off here."""
    target = ((teacher - centre) / teacher_temperature).softmax(1)
    return F.kl_div((student / student_temperature).log_softmax(1), target, reduction="batchmean")


def self_distillation__log_of_zero(student, teacher, centre, student_temperature, teacher_temperature):
    """Unseen: the log of a share that is 0; log_softmax knows it."""
    target = ((teacher - centre) / teacher_temperature).softmax(1)
    return -(target * (student / student_temperature).softmax(1).log()).sum(1).mean()
