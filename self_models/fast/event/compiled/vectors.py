"""What the compiler does not find by itself, as vector instructions for compiled code: sums of rows, masks of comparisons.

Written in LLVM's language, which is the same for all processors: a vector longer than theirs is taken in parts.
"""

from self_models.fast.compiling import WHY_NOT, intrinsic, noting_failure

if not WHY_NOT:
    with noting_failure():
        from llvmlite import ir
        from numba.core import cgutils, types

LANES = 16  # floats compared at once
WIDTHS = (64, 16, 4, 1)  # floats added at once, as many as there are left


def number(value):
    return ir.Constant(ir.IntType(64), value)


def pointer_to(context, builder, signature, args, which, index, count=1):
    """Where the array that is argument number `which` has `count` items from index on, as one vector."""
    array = signature.args[which]
    item = context.get_value_type(array.dtype)
    pointer = builder.gep(context.make_array(array)(context, builder, value=args[which]).data, [index])
    return builder.bitcast(pointer, (ir.VectorType(item, count) if count > 1 else item).as_pointer())


def repeated(builder, value, count):
    """A float as a vector of `count` of them."""
    if count == 1:
        return value
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


@intrinsic
def add_rows(typing_context, v, at, w, rows, values, first, last, shift, size, valued):
    """v[at : at + size] += the sum over i from first to last - 1 of w[rows[i] + shift :][:size], times values[i] if valued.

    Each membrane is loaded and stored once, however many rows there are.
    """

    def codegen(context, builder, signature, args):
        _, at, _, _, _, first, last, shift, size, valued = args

        def pointer(which, index, width=1):
            return pointer_to(context, builder, signature, args, which, index, width)

        def add(index, width, scaled):
            place = pointer(0, builder.add(at, index), width)
            total = cgutils.alloca_once_value(builder, builder.load(place, align=4))
            with cgutils.for_range_slice(builder, first, last, number(1), inc=True) as (i, _):
                start = builder.add(builder.load(pointer(3, i)), builder.add(shift, index))
                row = builder.load(pointer(2, start, width), align=4)
                if scaled:
                    row = builder.fmul(repeated(builder, builder.load(pointer(4, i)), width), row)
                builder.store(builder.fadd(builder.load(total), row), total)
            builder.store(builder.load(total), place, align=4)

        with builder.if_else(valued) as branches:
            for scaled, branch in zip((True, False), branches, strict=True):
                with branch:
                    done = number(0)
                    for width in WIDTHS:
                        end = builder.and_(size, number(-width))
                        with cgutils.for_range_slice(builder, done, end, number(width), inc=True) as (index, _):
                            add(index, width, scaled)
                        done = end
        return context.get_dummy_value()

    index = types.int64
    return types.void(v, index, w, rows, values, index, index, index, index, types.boolean), codegen


@intrinsic
def above(typing_context, v, at, count, bound):
    """Bit i of the result: whether v[at + i] > bound, for i below count, which is 1 to 64. v has LANES floats to spare."""

    def codegen(context, builder, signature, args):
        _, at, count, bound = args
        found, bounds = cgutils.alloca_once_value(builder, number(0)), repeated(builder, bound, LANES)
        with cgutils.for_range_slice(builder, number(0), count, number(LANES), inc=True) as (index, _):
            values = builder.load(pointer_to(context, builder, signature, args, 0, builder.add(at, index), LANES), align=4)
            bits = builder.bitcast(builder.fcmp_ordered(">", values, bounds), ir.IntType(LANES))
            bits = builder.shl(builder.zext(bits, ir.IntType(64)), index)
            builder.store(builder.or_(builder.load(found), bits), found)
        return builder.and_(builder.load(found), builder.lshr(number(-1), builder.sub(number(64), count)))

    return types.uint64(v, types.int64, types.int64, types.float32), codegen


@intrinsic
def lowest(typing_context, bits):
    """Number of the lowest bit that is set, of a word that is not 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen
