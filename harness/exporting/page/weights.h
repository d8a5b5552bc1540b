/* Sizes and arrays of a network that a page fills in: the largest there may be. What network.c wants of weights.h and weights.c. */
#define NETWORK_PIXELS 784
#define NETWORK_CLASSES 10
#define NETWORK_LAYERS 24
#define NETWORK_NODES 64
#define NETWORK_POTENTIALS 400000
#define NETWORK_WORDS 40000
#define NETWORK_PLACES 40000
#define NETWORK_DECAYED 40000
#define NETWORK_SENT 200000
#define NETWORK_ROWS 4096
#define LANES 32
#define SMALL 512

Header network_header;
Node network_nodes[NETWORK_NODES];
int32_t network_order[NETWORK_NODES];
potential_t network_constants[16384];
weight_t network_weights[1200000];
char network_names[1024];
Settings network_settings;
uint8_t page_image[NETWORK_PIXELS]; /* for network_show */
