"""Usual mistakes of assignment 07: task__mistake, and what a check says to it."""


def _cycles(n):
    return torch.fft.fftfreq(n, 1 / n).round()


def _filtered(images, keep):
    return torch.fft.ifft2(torch.fft.fft2(images) * keep).real


def _square(images, of=torch.maximum, cycles=_cycles):
    down, across = (cycles(n).abs().float() for n in images.shape[-2:])
    return of(down[:, None].expand(len(down), len(across)), across.expand(len(down), len(across)))


def high_part__low(images, cycles):
    """This is what was to go: the broad waves. Keep the others."""
    return images - high_part(images, cycles)


def high_part__fewer(images, cycles):
    """Waves of exactly `cycles` cycles go too: at most, not fewer than."""
    return high_part(images, cycles - 1)


def high_part__either(images, cycles):
    """A wave is broad if it is so both down and across; you take it out if it is so in one of the two."""
    return _filtered(images, _square(images, torch.minimum) > cycles)


def high_part__round(images, cycles):
    """Your region is round; it is a square: at most `cycles` down and at most `cycles` across."""
    return _filtered(images, _square(images, torch.hypot) > cycles)


def high_part__positive_only(images, cycles):
    """Entries beyond the middle stand for negative cycles: -1 is as broad as 1."""
    return _filtered(images, _square(images, cycles=torch.arange) > cycles)


def high_part__centred(images, cycles):
    """Your zero lies in the middle of the spectrum; fft2 puts it at [0, 0] (torch.fft.fftshift moves it, and ifftshift back)."""
    return _filtered(images, torch.fft.fftshift(_square(images) > cycles))


def high_part__mean_kept(images, cycles):
    """The mean, 0 cycles, goes as well."""
    return high_part(images, cycles) + images.mean((2, 3), keepdim=True)


def high_part__amplitude(images, cycles):
    """You take the absolute value at the end; the real part was asked for."""
    return high_part(images, cycles).abs()


def high_part__channels_too(images, cycles):
    """You transform over channels too (or over images): fft2 takes the last two axes, fftn all."""
    keep = (_square(images) > cycles).expand(images.shape).clone()
    keep[:, 1:] = True
    return torch.fft.ifftn(torch.fft.fftn(images) * keep).real


def high_part__not_back(images, cycles):
    """You did not transform back."""
    return (torch.fft.fft2(images) * (_square(images) > cycles)).real


def _impulse(like):
    one = torch.zeros_like(like)
    one[..., 0, 0] = 1                                         # all amplitudes are 1
    return one


def _swap(first, second, there=torch.fft.fft2, back=torch.fft.ifft2):
    return back(torch.polar(there(first).abs(), there(second).angle())).real


def swap_phase__other_way(first, second):
    """Amplitudes are those of the first and phases those of the second; yours are the other way round."""
    return _swap(second, first)


def swap_phase__product(first, second):
    """You multiply with the whole transform of the second: divide it by its amplitude first."""
    return torch.fft.ifft2(torch.fft.fft2(first).abs() * torch.fft.fft2(second)).real


def swap_phase__half_circle(first, second):
    """An arctangent of imaginary over real part knows half of the circle only: use torch.angle."""
    other = torch.fft.fft2(second)
    return torch.fft.ifft2(torch.polar(torch.fft.fft2(first).abs(), (other.imag / other.real).atan())).real


def swap_phase__amplitude_only(first, second):
    """The phases are missing: this has the amplitudes alone, and all phases are 0."""
    return torch.fft.ifft2(torch.fft.fft2(first).abs()).real


def swap_phase__phase_only(first, second):
    """The amplitudes are missing: this has the phases alone, and all amplitudes are 1."""
    return _swap(_impulse(first), second)


def swap_phase__squared(first, second):
    """These are squared amplitudes; take the root."""
    return torch.fft.ifft2(torch.polar(torch.fft.fft2(first).abs().square(), torch.fft.fft2(second).angle())).real


def swap_phase__logarithm(first, second):
    """You put the logarithm of the amplitudes in; the amplitudes themselves are needed to get back."""
    return torch.fft.ifft2(torch.polar(torch.fft.fft2(first).abs().log(), torch.fft.fft2(second).angle())).real


def swap_phase__degrees(first, second):
    """The angle is in radians; leave it so."""
    return torch.fft.ifft2(torch.polar(torch.fft.fft2(first).abs(), torch.fft.fft2(second).angle().rad2deg())).real


def swap_phase__minus(first, second):
    """The sign of the phase is turned round: your images are upside down and mirrored."""
    return torch.fft.ifft2(torch.polar(torch.fft.fft2(first).abs(), -torch.fft.fft2(second).angle())).real


def swap_phase__channels_too(first, second):
    """You transform over channels too (or over images): fft2 takes the last two axes, fftn all."""
    return _swap(first, second, torch.fft.fftn, torch.fft.ifftn)


def swap_phase__one_axis(first, second):
    """You transform along one axis alone: fft2 takes two, fft one."""
    return _swap(first, second, torch.fft.fft, torch.fft.ifft)


def swap_phase__not_back(first, second):
    """You did not transform back."""
    return torch.polar(torch.fft.fft2(first).abs(), torch.fft.fft2(second).angle()).real


def swap_phase__amplitude_at_the_end(first, second):
    """You take the absolute value at the end; the real part was asked for."""
    return _swap(first, second).abs()


def _noise(white, power, strength, of=torch.hypot, cycles=torch.fft.fftfreq, middle=0.0, axes=(1, 2, 3), size=None):
    f = _square(white, of, cycles)
    f[0, 0] = 1.0
    factor = f**-power
    factor[0, 0] = middle
    noise = _filtered(white, factor)
    return strength * noise / (size(noise) if size else noise.square().mean(axes, keepdim=True).sqrt())


def coloured_noise__division_by_zero(white, power, strength):
    """Frequency 0 to a negative power is inf, and inf times something nan: set that entry to 0 by itself."""
    return torch.full_like(white, torch.nan)


def coloured_noise__mean_kept(white, power, strength):
    """The entry of frequency 0 is to be 0: your noise has a mean."""
    return _noise(white, power, strength, middle=1.0)


def coloured_noise__rising(white, power, strength):
    """Your noise grows with the frequency: the power is negative."""
    return _noise(white, -power, strength)


def coloured_noise__energy(white, power, strength):
    """That is how the energy falls, the square of the amplitude; the amplitude falls twice as fast as yours."""
    return _noise(white, power / 2, strength)


def coloured_noise__square_rings(white, power, strength):
    """You take the larger of the two frequencies; f is the root of the sum of their squares."""
    return _noise(white, power, strength, of=torch.maximum)


def coloured_noise__sum_of_both(white, power, strength):
    """You add the two frequencies; f is the root of the sum of their squares."""
    return _noise(white, power, strength, of=torch.add)


def coloured_noise__squared_frequency(white, power, strength):
    """The root is missing in f."""
    return _noise(white, 2 * power, strength)


def coloured_noise__per_image(white, power, strength):
    """Your frequencies are in cycles an image; in cycles a pixel, a side of 4 and one of 6 have different steps."""
    return _noise(white, power, strength, cycles=_cycles)


def coloured_noise__not_folded(white, power, strength):
    """Entries beyond the middle stand for negative frequencies: fftfreq knows."""
    return _noise(white, power, strength, cycles=lambda n: torch.arange(n) / n)


def coloured_noise__white(white, power, strength):
    """The noise is still white: multiply the entries of its transform by f to the -power."""
    return _noise(white, 0.0, strength)


def coloured_noise__one_scale(white, power, strength):
    """Each image is scaled by itself; yours share one factor."""
    return _noise(white, power, strength, axes=(0, 1, 2, 3))


def coloured_noise__channels_apart(white, power, strength):
    """The root mean square runs over channels too; you scale each channel by itself."""
    return _noise(white, power, strength, axes=(2, 3))


def coloured_noise__not_scaled(white, power, strength):
    """Scale to a root mean square of `strength`; you only multiply by it."""
    return _noise(white, power, strength, size=lambda noise: 1.0)


def coloured_noise__no_strength(white, power, strength):
    """The strength is missing: this has a root mean square of 1."""
    return _noise(white, power, 1.0)


def coloured_noise__no_root(white, power, strength):
    """Divide by the root of the mean square."""
    return _noise(white, power, strength, size=lambda noise: noise.square().mean((1, 2, 3), keepdim=True))


def coloured_noise__scaled_first(white, power, strength):
    """You scale the white noise, and the colour changes its strength again: scale at the end."""
    return _filtered(white / white.square().mean((1, 2, 3), keepdim=True).sqrt(), _noise_factor(white, power)) * strength


def _noise_factor(white, power):
    f = _square(white, torch.hypot, torch.fft.fftfreq)
    f[0, 0] = torch.inf
    return f**-power


def _profile(maps, logs=None, ring=None, less=True, fold=torch.round, most=None, pool=torch.mean):
    rows, columns = maps.shape[1:3]
    spectrum = logs(maps) if logs else (torch.fft.fft2(maps, dim=(1, 2)).abs() + 1e-6).log().mean((0, 3))
    ring = fold(_square(maps[..., 0], torch.hypot)) if ring is None else ring
    count = min(rows, columns) // 2 + 1 if most is None else most
    return torch.stack([pool(spectrum[ring == r]) for r in range(count)]) - (spectrum[0, 0] if less else 0)


def _maps(tokens, prefix, rows, columns):
    return tokens[:, prefix:].unflatten(1, (rows, columns))


def radial_profile__cls_kept(tokens, prefix, rows, columns):
    """The first tokens are no patches: drop the prefix, not the last tokens."""
    return _profile(tokens[:, :rows * columns].unflatten(1, (rows, columns)))


def radial_profile__one_dropped(tokens, prefix, rows, columns):
    """You drop one token; `prefix` tokens come before the patches."""
    return _profile(tokens[:, 1:1 + rows * columns].unflatten(1, (rows, columns)) if prefix == 1 else
                    tokens[:, 1:].reshape(len(tokens), rows, columns, -1))


def radial_profile__sides_swapped(tokens, prefix, rows, columns):
    """Rows and columns changed places: patch n lies in row n // columns."""
    return _profile(_maps(tokens, prefix, columns, rows))


def radial_profile__channels_first(tokens, prefix, rows, columns):
    """A reshape does not move an axis: tokens are (patch, channel), so split the patches and then permute."""
    patches = tokens[:, prefix:]
    return _profile(patches.reshape(len(patches), -1, rows, columns).permute(0, 2, 3, 1))


def radial_profile__wrong_axes(tokens, prefix, rows, columns):
    """The transform runs over rows and columns, dim=(1, 2); fft2 takes the last two axes if you do not say."""
    return _profile(_maps(tokens, prefix, rows, columns), lambda m: (torch.fft.fft2(m).abs() + 1e-6).log().mean((0, 3)))


def radial_profile__mean_channel(tokens, prefix, rows, columns):
    """You transform the mean channel: transform each one, and average the logarithms."""
    return _profile(_maps(tokens, prefix, rows, columns).mean(3, keepdim=True))


def radial_profile__mean_image(tokens, prefix, rows, columns):
    """You transform the mean image: transform each one, and average the logarithms."""
    return _profile(_maps(tokens, prefix, rows, columns).mean(0, keepdim=True))


def radial_profile__log_of_mean(tokens, prefix, rows, columns):
    """You average amplitudes and take the logarithm afterwards: first the logarithm, then the mean."""
    return _profile(_maps(tokens, prefix, rows, columns), lambda m: torch.fft.fft2(m, dim=(1, 2)).abs().mean((0, 3)).log())


def radial_profile__power(tokens, prefix, rows, columns):
    """These are logarithms of squared amplitudes, twice as large."""
    return 2 * radial_profile(tokens, prefix, rows, columns)


def radial_profile__log_ten(tokens, prefix, rows, columns):
    """The logarithm is the natural one, torch.log."""
    return radial_profile(tokens, prefix, rows, columns) / math.log(10)


def radial_profile__no_log(tokens, prefix, rows, columns):
    """The logarithm is missing."""
    return _profile(_maps(tokens, prefix, rows, columns), lambda m: torch.fft.fft2(m, dim=(1, 2)).abs().mean((0, 3)))


def radial_profile__not_relative(tokens, prefix, rows, columns):
    """F(0, 0) has to come off."""
    return _profile(_maps(tokens, prefix, rows, columns), less=False)


def radial_profile__sign(tokens, prefix, rows, columns):
    """The difference is the other way round: the ring less F(0, 0)."""
    return -radial_profile(tokens, prefix, rows, columns)


def radial_profile__not_folded(tokens, prefix, rows, columns):
    """Entries beyond the middle stand for negative cycles: of 6 entries, the last is -1 and lies in ring 1."""
    maps = _maps(tokens, prefix, rows, columns)
    return _profile(maps, ring=_square(maps[..., 0], torch.hypot, torch.arange).round())


def radial_profile__centred(tokens, prefix, rows, columns):
    """Your zero lies in the middle of the spectrum; fft2 puts it at [0, 0] (torch.fft.fftshift moves it there)."""
    maps = _maps(tokens, prefix, rows, columns)
    return _profile(maps, ring=torch.fft.fftshift(_square(maps[..., 0], torch.hypot).round()))


def radial_profile__rounded_down(tokens, prefix, rows, columns):
    """You round down: an entry belongs to the nearest ring."""
    return _profile(_maps(tokens, prefix, rows, columns), fold=torch.floor)


def radial_profile__square_rings(tokens, prefix, rows, columns):
    """Your rings are square: take the root of the sum of squares, not the larger of the two."""
    maps = _maps(tokens, prefix, rows, columns)
    return _profile(maps, ring=_square(maps[..., 0]))


def radial_profile__along_an_axis(tokens, prefix, rows, columns):
    """These are the entries on an axis alone; a ring holds all directions."""
    maps = _maps(tokens, prefix, rows, columns)
    ring = _square(maps[..., 0], torch.hypot).round()
    return _profile(maps, ring=torch.where((_square(maps[..., 0], torch.minimum) == 0), ring, -1))


def radial_profile__diagonal(tokens, prefix, rows, columns):
    """This is the walk along the diagonal, as in the chapter; here a ring holds all directions."""
    maps = _maps(tokens, prefix, rows, columns)
    k = torch.arange(min(rows, columns) // 2 + 1)
    spectrum = (torch.fft.fft2(maps, dim=(1, 2)).abs() + 1e-6).log().mean((0, 3))
    return spectrum[k, k] - spectrum[0, 0]


def radial_profile__sum(tokens, prefix, rows, columns):
    """You add up the entries of a ring; take their mean."""
    return _profile(_maps(tokens, prefix, rows, columns), pool=torch.sum)


def radial_profile__last_missing(tokens, prefix, rows, columns):
    """The last ring is missing: r runs from 0 to K, both included."""
    return radial_profile(tokens, prefix, rows, columns)[:-1]


def radial_profile__log_of_zero(tokens, prefix, rows, columns):
    """Unseen: forgets the 1e-6, and takes the log of a zero where a wave is not there at all."""
    return _profile(_maps(tokens, prefix, rows, columns),
                    lambda m: torch.fft.fft2(m, dim=(1, 2)).abs().log().mean((0, 3)))
