/*-------------------------------------------------------------------------
 *
 * transfer.h
 *	  One HTTP request on curl's side; of no concern to anybody but http.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_TRANSFER_H
#define MC_TRANSFER_H

#include "postgres.h"

#include <curl/curl.h>

#include "lib/ilist.h"

#include "http.h"

/* a request under way */
typedef struct McTransfer
{
	dlist_node node;
	McHttpRequest *request;
	CURL *easy;
	struct curl_slist *headers; /* has the key in it */
	char error[CURL_ERROR_SIZE];

	/* how much of the request curl has taken */
	bool connected;	  /* it was about to send the first byte */
	long size_before; /* what had been sent by then, to a proxy */
	size_t body_taken;
	bool resend_refused;

	/* what has arrived */
	char *reply; /* malloc */
	size_t reply_len;
	size_t reply_size;
	bool too_large;
	bool out_of_memory;
	bool header_ended;
	bool has_length;
	char request_id[100];
} McTransfer;

/*
 * Makes curl's handle and tells it all about the request. CURLE_OUT_OF_MEMORY is left
 * to the caller, after any other error the transfer can only be finished.
 */
extern CURLcode mc_transfer_prepare(McTransfer *transfer, McHttpRequest *request);

/* Fills in the answer, with what curl says about the end. Raises only out of memory. */
extern void mc_transfer_finish(McTransfer *transfer, CURLcode code);

/* Frees all that no memory context owns; the handle is in no multi handle any more. */
extern void mc_transfer_free(McTransfer *transfer);

#endif /* MC_TRANSFER_H */
