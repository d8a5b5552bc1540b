"""What the epoch that counts is chosen on."""

from harness import UserError
from harness.data.facts import check_fits, where_images_lie
from harness.data.sets import load_data

SELECTED_ON = ("held-out", "last epoch", "test")  # held-out training images; nothing; the test images, as in the original


def images_for(args, model, holdout):
    """(training, selection or None, test) ImageSets that the flags name, as the model takes them. Raises UserError as load_data
    does, and for images or classes that are not the model's."""
    recorded = {"frames": model.frames} | {name: model.settings[name] for name in ("count_bound", "split_by")}
    limits = args.limit_train, args.limit_test, holdout
    dataset = where_images_lie(args.dataset, args.facts)
    data = load_data(dataset, args.data_dir, *limits, image_shape=model.image_shape, skip_bad=args.skip_bad, **recorded)
    check_fits(data[0], model)
    return data


def data_for(args, model):
    """(the Configuration, images_for() a training script). In training `holdout` becomes the number of images held out,
    `selected_on` what chooses the epoch. Raises UserError for a --shift as large as the images."""
    if args.test_only:
        return args, images_for(args, model, 0)
    train, selection, test = images_for(args, model, 0 if args.select == "test" else args.holdout)
    height, width = train.images.shape[-2:]
    if (args.shift or 0) >= min(height, width):
        raise UserError(f"--shift {args.shift} moves images of {height}x{width} pixels out of sight; give fewer pixels")
    selected_on = "test" if args.select == "test" else "held-out" if selection else "last epoch"
    counts = {"holdout": len(selection) if selection else 0, "train_images": len(train)}
    return args.with_settled(**counts, selected_on=selected_on), (train, selection, test)
