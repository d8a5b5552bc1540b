/* A network as one block of bytes, see NetworkBlock in network.h. network_open() looks at all of it, whatever the bytes are: network.c
   trusts its tables, and would read and write beyond. */
#include "network.h"

enum { BEHIND = 64 };       /* weights behind the last one that may be read, and bytes of a line of the cache */
enum { MOST_NODES = 4096 };
#define MOST (INT32_MAX - BEHIND) /* neurons of a node */
#define WANT(condition, what) if (!(condition)) return what

typedef NetworkBlock Block; typedef NetworkNode Node;

static int is_flag(int32_t value) { return value == 0 || value == 1; }

/* Whether a node's numbers lie within the constants, behind those that all nodes have; first 0: it has none. */
static int has(const Block *head, int32_t first, int64_t count)
{
    return !first || (first >= NETWORK_CONSTANTS * head->nodes && first + count <= head->constants);
}

/* Whether the windows of these places, rows or columns of the source, reach the target, of this size; *set: the largest number of a
   set of weights. */
static int reach(const int32_t *places, int32_t count, int32_t side, int32_t size, int64_t *set)
{
    for (int32_t i = 0; i < count; i++, places += NETWORK_PLACES) {
        const int32_t its_set = places[NETWORK_SET], corner = places[NETWORK_CORNER], skipped = places[NETWORK_SKIPPED];
        if (its_set == -1)
            continue;
        if (its_set < 0 || skipped < 0 || skipped >= side || corner <= -side || (int64_t)corner + skipped >= size)
            return 0;
        *set = its_set > *set ? its_set : *set;
    }
    return 1;
}

/* What is wrong with a link that is PLACED, or 0. */
static const char *check_windows(const Block *head, const Node *node, const Node *from, const int32_t *places)
{
    const int64_t row_size = ((int64_t)node->side * node->channels + 3) / 4 * 4;
    int64_t rows = -1, columns = -1, of_set;
    WANT(node->side > 0 && node->row_size == row_size, "the window of a node");
    WANT(node->first_place >= 0 && node->first_place + NETWORK_PLACES * ((int64_t)from->height + from->width) <= head->places, "the places of a node");
    places += node->first_place;
    WANT(reach(places, from->height, node->side, node->height, &rows)
         && reach(places + NETWORK_PLACES * (size_t)from->height, from->width, node->side, node->width, &columns), "the places of a node");
    WANT(node->first_weight >= 0 && node->group > 0 && node->group <= from->channels, "the weights of a node");
    of_set = row_size * node->side <= head->weights ? row_size * node->side * from->channels : INT64_MAX;
    WANT(rows + columns + 1 <= (head->weights - BEHIND - (int64_t)node->first_weight) / of_set, "the weights of a node");
    return 0;
}

/* What is wrong with the link to a node, or 0. */
static const char *check_link(const Block *head, const Node *nodes, const Node *node, const int32_t *places)
{
    const int pools = node->kind == NETWORK_POOL || node->kind == NETWORK_COUNTING_POOL;
    const Node *from, *into;
    WANT(node->source >= 0 && node->source < head->nodes, "the source of a node");
    from = &nodes[node->source];
    WANT(from->kind != NETWORK_OUTPUT && from->kind != NETWORK_DECODED && from->kind != NETWORK_MAP && from->kind != NETWORK_ADDING,
         "the source of a node");
    WANT(node->into > 0 && node->into < head->nodes, "the target of a node");
    into = &nodes[node->into];
    WANT((into != node) == (node->kind == NETWORK_ADDING), "the target of a node");
    WANT(into == node || (!node->first_bias && into->kind != NETWORK_POOL && into->kind != NETWORK_COUNTING_POOL
         && into->kind != NETWORK_ADDING && into->height == node->height && into->width == node->width
         && into->channels == node->channels), "the target of a node");
    if (node->link == NETWORK_PLACED && !pools)
        return check_windows(head, node, from, places);
    WANT(node->link == NETWORK_SAME || pools, "the link of a node");
    WANT(from->channels == node->channels && node->halvings >= 0 && node->halvings < 16, "the channels of a node");
    WANT(node->first_weight >= 0 && node->first_weight < head->weights, "the weights of a node");
    return 0;
}

/* What is wrong with all but lengths, or 0. */
static const char *check(const Block *head, const Node *nodes, const int32_t *order, const int32_t *places, const char *names)
{
    const char *wrong = 0;
    int64_t inputs = 0, largest = 0;
    int32_t ends = 0;
    WANT(head->layers > 0 && head->layers <= head->nodes && is_flag(head->counting) && is_flag(head->colour), "the layers");
    WANT(head->forward >= 0 && head->feedback >= 0 && (int64_t)head->forward + head->feedback == head->nodes - 1, "the order");
    for (int32_t i = 0; i < head->nodes - 1; i++) {
        WANT(order[i] > 0 && order[i] < head->nodes, "the order");
        for (int32_t n = 0; n < i; n++)
            WANT(order[n] != order[i], "the order");
    }
    WANT(head->output > 0 && head->output < head->nodes, "the output");
    WANT(head->decoded < head->nodes && (head->feedback ? head->decoded > 0 : head->decoded == -1), "the decoder");
    for (int32_t n = 0; n < head->nodes; n++) {
        const Node *node = &nodes[n];
        const int64_t size = (int64_t)node->height * node->width, neurons = size > 0 && size <= MOST ? size * node->channels : INT64_MAX;
        WANT(node->kind >= 0 && node->kind <= NETWORK_ADDING && (node->kind != NETWORK_MAP || head->counting)
             && (node->kind == NETWORK_NEURONS) == (n < head->layers) && (node->kind == NETWORK_OUTPUT) == (n == head->output)
             && (node->kind == NETWORK_DECODED) == (n == head->decoded), "the kind of a node");
        WANT(node->height > 0 && node->width > 0 && node->channels > 0 && neurons <= MOST, "the shape of a node");
        WANT(node->depth >= 0 && node->depth <= head->nodes, "the depth of a node");
        WANT(node->resets >= 0 && node->resets <= NETWORK_RESET_NEVER, "the reset of a node");
        WANT(is_flag(node->valued) && is_flag(node->narrow) && node->unbounded >= 0, "the kind of a node");
        WANT(node->link == NETWORK_SAME || node->link == NETWORK_PLACED, "the link of a node");
        WANT(has(head, node->first_bias, node->first_own ? neurons : node->channels) && has(head, node->first_reset, 1)
             && has(head, node->first_own, 3 * neurons), "the constants of a node");
        inputs = n ? inputs : neurons;
        largest = neurons > largest ? neurons : largest;
        WANT(n != head->decoded || neurons == inputs, "the decoder");
    }
    /* no more spikes than a node has neurons share a window; one more may make an even number */
    WANT(head->windows > 0 && head->windows <= largest + 1, "the windows");
    for (int32_t n = 1; n < head->nodes && !wrong; n++) /* which rely on all shapes */
        wrong = check_link(head, nodes, &nodes[n], places);
    for (int32_t i = 0; i < head->names; i++)
        ends += !names[i];
    return wrong ? wrong : ends == head->layers && !names[head->names - 1] ? 0 : "the names";
}

const char *network_open(const void *block, size_t bytes, NetworkTables *network, NetworkSettings *settings)
{
    const Block *head = block;
    const Node *nodes = (const Node *)(head + 1);
    const int32_t *order, *places;
    const char *names, *wrong;
    uint64_t weights, end;
    WANT(block, "there is none");
    WANT((uintptr_t)block % sizeof(int32_t) == 0, "it does not begin at a multiple of 4 bytes");
    WANT(bytes >= sizeof *head, "it is cut short");
    WANT(head->magic == NETWORK_MAGIC, "it is no network");
    WANT(head->version == NETWORK_API, "it is of another version");
    WANT(head->weight_bytes == sizeof(network_weight_t), "its weights are of the other kind, float32 or int8");
    WANT(head->nodes > 0 && head->nodes <= MOST_NODES && head->places >= 0 && head->constants >= NETWORK_CONSTANTS * head->nodes
         && head->weights >= BEHIND && head->names > 0, "the lengths");
    weights = sizeof *head + sizeof *nodes * (uint64_t)head->nodes
              + sizeof(int32_t) * ((uint64_t)head->nodes - 1 + (uint64_t)head->places + (uint64_t)head->constants);
    weights = (weights + BEHIND - 1) / BEHIND * BEHIND;
    end = weights + sizeof(network_weight_t) * (uint64_t)head->weights + (uint64_t)head->names;
    WANT(end <= bytes, "it is cut short");
    order = (const int32_t *)(nodes + head->nodes);
    places = order + head->nodes - 1;
    names = (const char *)block + end - head->names;
    wrong = check(head, nodes, order, places, names);
    if (!wrong) {
        const NetworkTables tables = {
            head->layers, head->nodes, head->forward, head->feedback, head->output, head->decoded, head->colour, head->windows,
            head->counting, nodes, order, places, (const network_potential_t *)(places + head->places),
            (const network_weight_t *)((const char *)block + weights), names};
        WANT(network_accepts(&tables, &head->settings), "the settings");
        *network = tables;
        *settings = head->settings;
    }
    return wrong;
}
