"""Flags that cannot take effect beside the others, by what their settings declare."""

from harness import UserError

CHECKPOINTS = ("pretrained_ann", "pretrained_snn")


def lines_on_idle(args, declared):
    """Lines that warn of typed flags of training where nothing is trained; the original's command lines carry such flags.

    declared: name -> Setting of all flags. Called when args hold what checkpoints say. A preset's flags are not judged, since
    it serves every way of using its network. Raises UserError for any other flag that does nothing, and for an evaluation
    without a checkpoint.
    """
    own = [flag for flag in CHECKPOINTS if hasattr(args, flag)]
    if args.test_only and not any(getattr(args, flag) for flag in own):
        raise UserError(f"--test_only wants a trained network: give {' or '.join(f'--{flag} PATH' for flag in own)}")
    typed = {one.flag(name): one for name, one in declared.items() if one.flag(name) in args.typed}
    of_training = [flag for flag, one in typed.items() if one.training and args.test_only]
    for flag, need in ((flag, need) for flag, one in typed.items() if flag not in of_training for need in one.needs):
        value = getattr(args, need.flag)
        if not need.holds(value):
            beside = f"with --{need.flag} {value}" if need.values else f"without --{need.flag}"
            why = need.why or f"it counts with {' or '.join(need.values)}"
            raise UserError(f"--{flag} does nothing {beside}: {why}; leave it out")
    return [f"warning: nothing is trained, so these do nothing: --{', --'.join(of_training)}"] if of_training else []
