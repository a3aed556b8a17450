# Several lists and connections at once (R8, R9, R10, R11, R12, R81, R94, D12, D21, N8): one source in several audiences, each
# with a rule and a name of its own; what troubles one does not stop the others; an opt-out holds everywhere.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 9, demo => { lists => [ { name => 'Customers' }, { name => 'Juniors' } ] });
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $second = $sim->post('/_sim/accounts', { key => 'second-us2', account_name => 'Second', lists => [ { name => 'Customers' } ] });
my %list = (people => $list, juniors => $crm->{demo}{lists}[1]{id}, seniors => $second->{lists}[0]{id});

# -----------------------------------------------------------------------------------------------------------------
# Made one by one, switched on one by one
# -----------------------------------------------------------------------------------------------------------------

$node->query("CREATE SERVER second FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER second OWNER TO ann");
is($crm->ann("SELECT mc_connect('second', 'second-us2')"), 'Second', 'R9: a second account');
$crm->ann("SELECT mc_create_audience('juniors', 'main', 'Juniors', 'candidate', 'id <= 5');
	SELECT mc_create_audience('seniors', 'second', 'Customers', 'candidate', 'active AND id >= 5')");
is($crm->rita("SELECT audience, connection, list_name, state FROM mc_audience ORDER BY 1"), "juniors|main|Juniors|new\npeople|main|Customers|new\nseniors|second|Customers|new",
	'R8, R10, R12: a list each, also of the same name, and names of their own');

sub ids { my ($audience) = @_; my %m = $crm->members($list{$audience}); return join ' ', sort map { /^c(\d+)@/ } grep { $m{$_}{status} eq 'subscribed' } keys %m }
sub all_ids { return join ' | ', map { ids($_) } qw(people juniors seniors) }

$crm->sync('juniors');
is(all_ids(), ' | 1 2 3 4 5 | ', 'D21, R9: each is switched on by itself');
$crm->sync($_) for qw(people seniors);
is(all_ids(), '1 2 3 4 5 6 7 8 9 | 1 2 3 4 5 | 5 6 7 8 9', 'R10: one source, three rules');
is($crm->status('people') . ', ' . $crm->status('juniors') . ', ' . $crm->status('seniors'), 'in_sync 9, in_sync 5, in_sync 5', 'N8: the states of each add up');
$crm->requests;
$crm->ann("UPDATE crm.candidate SET first_name = 'New' WHERE id = 5");
$crm->run;
is($crm->pushed, '1 1 1', 'a change goes to every list that has the contact');
is($crm->max("SELECT mc_sync_member('candidate', 5)"), 3, 'mc_sync_member: in three audiences');
$node->query("CREATE ROLE sue LOGIN; SELECT mc_grant('sue', 'marketer', 'second')");
is($node->query("SELECT mc_sync_member('candidate', 5)", as => 'sue'), 1, 'of which not everybody sees all');
is($node->query("SELECT string_agg(audience, ' ') FROM mc_audience", as => 'sue'), 'seniors', 'D19: a grant on one connection');
$crm->max("SELECT mc_add_member('juniors', 'candidate', 9); SELECT mc_remove_member('people', 'candidate', 9)");
$crm->run;
is(all_ids(), '1 2 3 4 5 6 7 8 | 1 2 3 4 5 9 | 5 6 7 8 9', 'R94, R77: by hand into a chosen list, out of another');
$crm->max("SELECT mc_release_member('juniors', 'candidate', 9); SELECT mc_release_member('people', 'candidate', 9)");
$crm->run;

# -----------------------------------------------------------------------------------------------------------------
# What troubles one does not stop the others
# -----------------------------------------------------------------------------------------------------------------

sub step { my ($name) = @_; $crm->ann("UPDATE crm.candidate SET first_name = '$name' WHERE id = 5"); $crm->run }
sub have { return join ' ', map { my %m = $crm->members($list{$_}); $m{'c5@crm.test'}{merge_fields}{FNAME} } qw(people juniors seniors) }

$sim->request('DELETE', '/_sim/keys/second-us2');
step('revoked');
is(have(), 'revoked revoked New', 'a key that was revoked');
is($crm->rita('SELECT connection, state FROM mc_connection ORDER BY 1'), "main|ok\nsecond|auth_failed", 'stops its own connection');
$sim->post('/_sim/keys', { key => 'other-us2', account => $second->{account_id} });
$crm->ann("SELECT mc_connect('second', 'other-us2')");
$crm->run;
is(have(), 'revoked revoked revoked', 'a new one, and what was missed is caught up with');

my $fault = $sim->fault(path => "^/lists/$list{juniors}(/|\$)", times => -1, fault => { type => 'status', status => 404, json => JSON::PP::true });
step('lost');
is(have(), 'lost revoked lost', 'a list that is gone');
is($crm->rita("SELECT string_agg(audience, ' ') FROM mc_audience WHERE state = 'failing'"), 'juniors', 'troubles its own audience');
$sim->delete("/_sim/faults/$fault");
$crm->later(600);
$crm->run;
is(have(), 'lost lost lost', 'found again');

$crm->ann("SELECT mc_pause('main', 'people')");
step('paused');
is(have(), 'lost paused paused', 'an audience that is paused');
$crm->ann("SELECT mc_resume('main', 'people')");
$crm->run;
is(have(), 'paused paused paused', 'and goes on');

# A source that cannot be read any more, beside one that can, in the same audience and in others.
$crm->ann("CREATE TABLE crm.client (id integer PRIMARY KEY, email text, name text); INSERT INTO crm.client VALUES (1, 'k1\@crm.test', 'K');
	SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{\"FNAME\": \"name\"}'); SELECT mc_add_audience_source('people', 'client');
	SELECT mc_add_audience_source('seniors', 'client')");
$crm->run;
$crm->ann("ALTER TABLE crm.client RENAME COLUMN name TO full_name; UPDATE crm.client SET full_name = 'L'");
step('stopped');
is(have() . ' ' . $crm->rita("SELECT string_agg(source, ' ') FROM mc_source WHERE state = 'stopped'"), 'stopped stopped stopped client', 'a source that fails: the other one goes on');
is($crm->rita("SELECT string_agg(audience, ' ' ORDER BY audience) FROM mc_audience WHERE state = 'failing'"), 'people seniors', 'its audiences say so');
$crm->ann("ALTER TABLE crm.client RENAME COLUMN full_name TO name; SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{\"FNAME\": \"name\"}')");
$crm->run;
my @k = map { { $crm->members($list{$_}) }->{'k1@crm.test'}{merge_fields}{FNAME} } qw(people seniors);
is("@k", 'L L', 'defined anew it goes on');

# One contact that a list refuses is none of the others' business.
$sim->post('/_sim/act', { list => $list{juniors}, email => 'c3@crm.test', action => 'clean' });
$crm->later(660);
$crm->run;
is(all_ids(), '1 2 3 4 5 6 7 8 9 | 1 2 4 5 | 5 6 7 8 9', 'bounced away from one list');

# -----------------------------------------------------------------------------------------------------------------
# An opt-out holds everywhere (D12, R81)
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/act', { list => $list{juniors}, email => 'c5@crm.test', action => 'unsubscribe' });
$crm->max("SELECT mc_opt_out('candidate', 6)");
$crm->later(660);
$crm->run;
is(all_ids(), '1 2 3 4 7 8 9 | 1 2 4 | 7 8 9', 'D12, R81: unsubscribed in one list, opted out in the CRM: nowhere any more');
is($crm->rita("SELECT string_agg(audience || ' ' || state, ', ' ORDER BY audience) FROM mc_contact_state WHERE contact_key = '5'"), 'juniors opted_out, people opted_out, seniors opted_out', 'the states');
$crm->ann("UPDATE crm.candidate SET first_name = 'Wants in' WHERE id IN (5, 6); SELECT mc_add_member('juniors', 'candidate', 6)");
$crm->run;
is(all_ids(), '1 2 3 4 7 8 9 | 1 2 4 | 7 8 9', 'nor does a change or a hand bring them back');

# A connection that is unreachable when somebody opts out is told later.
$fault = $sim->fault(path => "^/lists/$list{seniors}(/|\$)", times => -1, fault => 'reset_before');
$crm->max("SELECT mc_opt_out('candidate', 7)");
$crm->run;
is(all_ids(), '1 2 3 4 8 9 | 1 2 4 | 7 8 9', 'a list that does not answer holds nobody up');
$sim->delete("/_sim/faults/$fault");
$crm->later(600);
$crm->run;
is(all_ids(), '1 2 3 4 8 9 | 1 2 4 | 8 9', 'and is told as soon as it does');
$crm->ann("SELECT mc_drop_audience('juniors'); SELECT mc_disconnect('second')");
step('apart');
$crm->run;
is($crm->rita("SELECT state FROM mc_audience WHERE audience = 'people'"), 'active', 'dropping one and disconnecting another leaves the third');

done_testing();
