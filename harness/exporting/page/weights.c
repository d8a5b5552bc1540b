/* The arrays of a network, which the page fills in. */
#include "layout.h"

Header network_header;
Node network_nodes[NETWORK_NODES];
int32_t network_order[NETWORK_NODES];
potential_t network_constants[8192];
weight_t network_weights[1200000];
char network_names[1024];
Settings network_settings;
uint8_t page_image[NETWORK_PIXELS]; /* for network_show */
