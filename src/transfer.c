/*-------------------------------------------------------------------------
 *
 * transfer.c
 *	  One HTTP request: what curl is told, and what it brings back.
 *
 * Callbacks only record. They run inside of curl, so they never raise, palloc or
 * log: an error that jumped out of curl would leave it in the middle of something.
 *
 * Never twice: curl sends a request again by itself where a connection that was
 * kept alive dies without an answer. We must know of each request that may have
 * arrived, so once a byte of it has left, sending it again is refused (may_send).
 *
 * Never half: an answer is complete only if its end is known. curl takes a header
 * that breaks off, or nothing at all behind one that announces no length, for a
 * good answer; an empty success would then be believed (is_whole).
 *
 * Where the server's environment names a proxy (https_proxy, no_proxy), it is used,
 * as by everything else that the administrator starts; never for this machine itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "transfer.h"

#if LIBCURL_VERSION_NUM < 0x075000
#error "libcurl 7.80 or later is needed"
#endif

/* Longest Retry-After that is believed, by newer libcurls as well; in ms it still is an int. */
#define MAX_RETRY_AFTER_S (6 * 60 * 60)

/* malloc memory that a memory context owns */
typedef struct McMalloced
{
	MemoryContextCallback on_reset;
	void *memory;
} McMalloced;

/* ---------- callbacks of curl: record, never raise ---------- */

static long
bytes_sent(McTransfer *transfer)
{
	long bytes = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &bytes);
	return bytes;
}

/* Called on a ready connection, before anything of the request is sent on it. */
static int
may_send(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	McTransfer *transfer = arg;
	long bytes = bytes_sent(transfer);

	if (!transfer->connected)
	{
		transfer->connected = true;
		transfer->size_before = bytes;
	}
	else if (bytes > transfer->size_before)
	{
		transfer->resend_refused = true;
		return CURL_PREREQFUNC_ABORT;
	}
	return CURL_PREREQFUNC_OK;
}

static size_t
on_body(char *buffer, size_t size, size_t n, void *arg)
{
	McTransfer *transfer = arg;
	size_t left = transfer->request->body_len - transfer->body_taken;
	size_t bytes = Min(size * n, left);

	memcpy(buffer, transfer->request->body + transfer->body_taken, bytes);
	transfer->body_taken += bytes;
	return bytes;
}

static bool
is_header(const char *line, size_t len, const char *name)
{
	return len > strlen(name) && pg_strncasecmp(line, name, strlen(name)) == 0;
}

static void
note_request_id(McTransfer *transfer, const char *value, size_t len)
{
	while (len > 0 && isspace((unsigned char) *value))
	{
		value++;
		len--;
	}
	while (len > 0 && isspace((unsigned char) value[len - 1]))
		len--;
	len = Min(len, sizeof(transfer->request_id) - 1);
	memcpy(transfer->request_id, value, len);
	transfer->request_id[len] = '\0';
}

/* Line by line, also of interim answers (1xx) and of a proxy: each status line begins anew. */
static size_t
on_header(char *line, size_t size, size_t n, void *arg)
{
	McTransfer *transfer = arg;
	size_t len = size * n;

	if (is_header(line, len, "HTTP/"))
	{
		transfer->header_ended = false;
		transfer->has_length = false;
		transfer->request_id[0] = '\0';
	}
	else if (len > 0 && (line[0] == '\r' || line[0] == '\n'))
		transfer->header_ended = true;
	else if (is_header(line, len, "Content-Length:") || is_header(line, len, "Transfer-Encoding:"))
		transfer->has_length = true;
	else if (is_header(line, len, "X-Request-Id:"))
		note_request_id(transfer, line + strlen("X-Request-Id:"), len - strlen("X-Request-Id:"));
	return len;
}

/* The reply as decompressed, with room for a zero at its end. */
static size_t
on_reply(char *data, size_t size, size_t n, void *arg)
{
	McTransfer *transfer = arg;
	size_t max = transfer->request->max_response;
	size_t bytes = size * n;

	if (bytes > max - transfer->reply_len)
	{
		transfer->too_large = true;
		return 0;
	}
	if (transfer->reply_len + bytes >= transfer->reply_size)
	{
		size_t wanted = Max(2 * transfer->reply_size, transfer->reply_len + bytes + 1);
		size_t new_size = Min(wanted, max + 1);
		char *reply = realloc(transfer->reply, new_size);

		if (reply == NULL)
		{
			transfer->out_of_memory = true;
			return 0;
		}
		transfer->reply = reply;
		transfer->reply_size = new_size;
	}
	memcpy(transfer->reply + transfer->reply_len, data, bytes);
	transfer->reply_len += bytes;
	return bytes;
}

/* ---------- the answer ---------- */

static void
free_malloced(void *arg)
{
	free(((McMalloced *) arg)->memory);
}

/* Hands the reply over to the caller's memory context, without a copy: it may be large. */
static void
give_reply(McTransfer *transfer)
{
	McHttpRequest *request = transfer->request;
	McMalloced *owner;

	if (transfer->reply == NULL || transfer->too_large)
	{
		request->reply = MemoryContextStrdup(request->context, "");
		return;
	}
	owner = MemoryContextAlloc(request->context, sizeof(McMalloced));
	owner->memory = transfer->reply;
	owner->on_reset.func = free_malloced;
	owner->on_reset.arg = owner;
	MemoryContextRegisterResetCallback(request->context, &owner->on_reset);
	transfer->reply[transfer->reply_len] = '\0';
	request->reply = transfer->reply;
	request->reply_len = transfer->reply_len;
	transfer->reply = NULL;
}

/* Text of others that is no body, as plain ASCII: it goes into texts of any encoding. */
static char *
copy_ascii(McTransfer *transfer, const char *text)
{
	char *copy = MemoryContextStrdup(transfer->request->context, text);

	for (char *c = copy; *c != '\0'; c++)
	{
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
	return copy;
}

/*
 * Nothing leaves before curl has taken it from us, so a request whose end curl
 * has not asked for was not sent; what curl has taken may still have been in its
 * buffer, which counts as sent.
 */
static bool
is_sent(McTransfer *transfer)
{
	return transfer->connected && bytes_sent(transfer) > transfer->size_before &&
		   transfer->body_taken == transfer->request->body_len;
}

/* Whether we know where the answer ended, or it is at least not empty (JSON tells its own end). */
static bool
is_whole(McTransfer *transfer, long status)
{
	return transfer->header_ended &&
		   (transfer->has_length || status == 204 || transfer->reply_len > 0);
}

static const char *
error_text(McTransfer *transfer, CURLcode code)
{
	if (transfer->too_large)
		return "the reply is larger than allowed";
	if (transfer->out_of_memory)
		return "out of memory for the reply";
	if (transfer->resend_refused || code == CURLE_SEND_FAIL_REWIND)
		return "the connection was closed without an answer";
	if (code == CURLE_OK)
		return "the answer broke off";
	return transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(code);
}

void
mc_transfer_finish(McTransfer *transfer, CURLcode code)
{
	McHttpRequest *request = transfer->request;
	char *content_type = NULL;
	curl_off_t microseconds = 0;
	curl_off_t retry_after = 0;
	long status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &microseconds);
	curl_easy_getinfo(transfer->easy, CURLINFO_CONTENT_TYPE, &content_type);
	curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after);
	request->status = (int) status;
	request->seconds = (double) microseconds / 1000000;
	request->retry_after_s = retry_after > 0 ? (int) Min(retry_after, MAX_RETRY_AFTER_S) : -1;
	request->sent = is_sent(transfer);
	request->complete = code == CURLE_OK && is_whole(transfer, status);
	request->too_large = transfer->too_large;
	request->content_type = content_type == NULL ? NULL : copy_ascii(transfer, content_type);
	if (transfer->request_id[0] != '\0')
		request->request_id = copy_ascii(transfer, transfer->request_id);
	if (!request->complete)
		request->error = copy_ascii(transfer, error_text(transfer, code));
	give_reply(transfer);
	request->finished = true;
}

void
mc_transfer_free(McTransfer *transfer)
{
	curl_easy_cleanup(transfer->easy);
	transfer->easy = NULL;
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	free(transfer->reply);
	transfer->reply = NULL;
}

/* ---------- the request ---------- */

/* http is for a test's or a rehearsal's server on this machine only. */
static bool
is_loopback(const char *url)
{
	CURLU *parsed = curl_url();
	char *host = NULL;
	bool loopback = false;

	if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK)
		loopback = pg_strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
				   (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
	curl_free(host);
	curl_url_cleanup(parsed);
	return loopback;
}

#define SET(option, value)                                                   \
	do                                                                       \
	{                                                                        \
		CURLcode set_code = curl_easy_setopt(transfer->easy, option, value); \
		if (set_code != CURLE_OK)                                            \
			return set_code;                                                 \
	} while (0)

static CURLcode
add_header(McTransfer *transfer, const char *header)
{
	struct curl_slist *longer = curl_slist_append(transfer->headers, header);

	if (longer == NULL)
		return CURLE_OUT_OF_MEMORY;
	transfer->headers = longer;
	return CURLE_OK;
}

/* Accept what the API speaks, and never wait for a "100 Continue" before a large body. */
static CURLcode
set_headers(McTransfer *transfer)
{
	const McHttpRequest *request = transfer->request;
	CURLcode code = add_header(transfer, "Accept: application/json");

	if (code == CURLE_OK)
		code = add_header(transfer, "Expect:");
	if (code == CURLE_OK && request->body != NULL)
		code = add_header(transfer, "Content-Type: application/json");
	if (code == CURLE_OK && request->api_key != NULL)
	{
		char *header = psprintf("Authorization: Bearer %s", request->api_key);

		/* A line break would begin a header of its own. */
		code = strpbrk(header, "\r\n") != NULL ? CURLE_LOGIN_DENIED : add_header(transfer, header);
		explicit_bzero(header, strlen(header));
		pfree(header);
	}
	if (code == CURLE_OK)
		code = curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers);
	return code;
}

/* What a method without a body sends: "Content-Length: 0" where one would be usual. */
static CURLcode
set_method(McTransfer *transfer)
{
	const McHttpRequest *request = transfer->request;
	bool usual = strcmp(request->method, "POST") == 0 || strcmp(request->method, "PUT") == 0 ||
				 strcmp(request->method, "PATCH") == 0;

	if (request->body_len > 0 || usual)
	{
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
		if (request->body_len == 0)
			SET(CURLOPT_POSTFIELDS, "");
		SET(CURLOPT_READFUNCTION, on_body);
		SET(CURLOPT_READDATA, transfer);
	}
	SET(CURLOPT_CUSTOMREQUEST, request->method);
	return CURLE_OK;
}

/* What is not set here is curl's default: no redirects, no cookies, no .netrc, certificates verified. */
static CURLcode
set_connection(McTransfer *transfer)
{
	const McHttpRequest *request = transfer->request;
	bool loopback = is_loopback(request->url);

	SET(CURLOPT_URL, request->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, loopback ? "http,https" : "https");
#else
	SET(CURLOPT_PROTOCOLS, loopback ? CURLPROTO_HTTP | CURLPROTO_HTTPS : CURLPROTO_HTTPS);
#endif
	if (loopback)
		SET(CURLOPT_PROXY, "");
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, request->connect_timeout_ms);
	SET(CURLOPT_TIMEOUT_MS, request->timeout_ms);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* Do not wait for a thread that resolves a name; before 7.87 a cancel waits for it. */
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	return CURLE_OK;
}

static CURLcode
set_callbacks(McTransfer *transfer)
{
	SET(CURLOPT_PRIVATE, transfer);
	SET(CURLOPT_ERRORBUFFER, transfer->error);
	SET(CURLOPT_PREREQFUNCTION, may_send);
	SET(CURLOPT_PREREQDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_WRITEFUNCTION, on_reply);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_ACCEPT_ENCODING, "");
	SET(CURLOPT_USERAGENT, "mailchimp_sync");
	return CURLE_OK;
}

static void
reset_answer(McHttpRequest *request)
{
	request->finished = false;
	request->status = 0;
	request->sent = false;
	request->complete = false;
	request->too_large = false;
	request->content_type = NULL;
	request->request_id = NULL;
	request->retry_after_s = -1;
	request->reply = NULL;
	request->reply_len = 0;
	request->error = NULL;
	request->seconds = 0;
}

CURLcode
mc_transfer_prepare(McTransfer *transfer, McHttpRequest *request)
{
	CURLcode code;

	reset_answer(request);
	transfer->request = request;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
		return CURLE_OUT_OF_MEMORY;
	code = set_callbacks(transfer);
	if (code == CURLE_OK)
		code = set_connection(transfer);
	if (code == CURLE_OK)
		code = set_method(transfer);
	if (code == CURLE_OK)
		code = set_headers(transfer);
	return code;
}
