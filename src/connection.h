/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  The options of a connection, for connection.c and connect.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_CONNECTION_H
#define MC_CONNECTION_H

#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/foreign.h"

#include "mailchimp_sync.h"

extern void mc_hide_statement(void *arg);
extern void mc_hide_activity(const char *shown); /* which has to stay */
extern bool mc_is_dc(const char *dc);
extern void mc_check_option(const char *name, const char *value);
extern char *mc_find_option(List *options, const char *name);
extern ForeignServer *mc_find_server(const char *name);
extern bool mc_find_mapping(const ForeignServer *server, List **options);
extern char *mc_read_key_file(const char *path);
extern McConnection *
mc_connection_make(const char *name, const char *api_key, const char *dc, const char *endpoint);
extern void mc_connection_set_user(McConnection *connection, const char *login_id);

#endif /* MC_CONNECTION_H */
