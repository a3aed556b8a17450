# What the model test of audiences in both directions (065_model_both.pl) has found, each reduced to a few steps (R82, R85, D14).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 12, audience => q{, direction => 'both', conflict => 'crm_wins'});
my ($node, $sim) = @$crm{qw(node sim)};
my $run = $node->session(as => 'max');

$crm->ann(q{CREATE SEQUENCE crm.ids START 1000;
	ALTER TABLE crm.candidate ADD mailchimp_id text, ADD status text, ALTER id SET DEFAULT nextval('crm.ids');
	SELECT mc_set_inbound('people', 'candidate', '{"email": "email", "FNAME": "first_name", "LNAME": "last_name", "id": "mailchimp_id", "status": "status"}')});
$crm->sync;

sub policy { my ($policy) = @_; $crm->ann(qq{SELECT mc_alter_audience('people', '{"conflict": "$policy"}')}); $crm->run }
sub pull { $crm->max(q{SELECT mc_pull('people')}); $crm->run }
sub who { my ($names) = @_; return join ' ', sort grep { /^($names)\@/ } keys %{ { $crm->members } } }
sub facts { my ($id) = @_; return $crm->ann("SELECT concat_ws(' ', status, mailchimp_id) FROM crm.candidate WHERE id = $id") }
sub row { my ($id) = @_; return $crm->ann("SELECT email, first_name, last_name FROM crm.candidate WHERE id = $id") }

# -----------------------------------------------------------------------------------------------------------------
# Somebody moves to another address at Mailchimp, and nobody has read it yet: there is one member still
# -----------------------------------------------------------------------------------------------------------------

# The CRM changes the address, too.
$crm->ann(q{UPDATE crm.candidate SET email = 'here1@crm.test' WHERE id = 1});
$crm->act('c1', 'change_email', new_email => 'there1@crm.test');
$crm->run;
is(who('here1|there1|c1') . ' ' . $crm->state(1), 'here1@crm.test in_sync|', 'R85: where the CRM wins they are where the CRM says');

# The CRM changes something else.
$crm->ann(q{UPDATE crm.candidate SET first_name = 'New2' WHERE id = 2});
$crm->act('c2', 'change_email', new_email => 'there2@crm.test');
$crm->run;
is(who('there2|c2') . ' ' . $crm->state(2), 'c2@crm.test in_sync|', 'and not there twice, by a push to the address that they gave up');
is($crm->shown('c2@crm.test'), 'subscribed|New2|g2', 'but as the CRM has them');

policy('mailchimp_wins');
$crm->ann(q{UPDATE crm.candidate SET email = 'here3@crm.test' WHERE id = 3; UPDATE crm.candidate SET first_name = 'New4' WHERE id = 4});
$crm->act('c3', 'change_email', new_email => 'there3@crm.test');
$crm->act('c4', 'change_email', new_email => 'there4@crm.test');
$crm->run;
is(who('here3|there3|c3|there4|c4'), 'there3@crm.test there4@crm.test', 'where Mailchimp wins they are where Mailchimp says');
is(row(3) . ' ' . row(4), 'there3@crm.test|F3|L3 there4@crm.test|New4|L4', 'and so are the rows');
is($crm->shown('there4@crm.test'), 'subscribed|New4|g1', 'with what the CRM alone has changed');

# The row goes.
$sim->hold(method => 'DELETE', path => '/members/', when => 'before');
$crm->ann('DELETE FROM crm.candidate WHERE id = 7');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->act('c7', 'change_email', new_email => 'there7@crm.test');
$sim->release;
$run->query('');
$crm->run;
is(who('c7|there7') . ' ' . $crm->member('there7@crm.test')->{status}, 'there7@crm.test archived', 'R74: who leaves is out where the member is');
is($crm->ann(q{SELECT count(*) FROM crm.candidate WHERE email ~ '7@'}), 0, 'and does not come back into the CRM');

# They are erased.
$crm->act('c8', 'change_email', new_email => 'there8@crm.test');
$crm->ann(q{SELECT mc_erase_contact('c8@crm.test')});
$crm->run;
pull();
is(who('c8|there8'), '', 'N13: who is erased is so where the member is');
is($crm->ann(q{SELECT count(*) FROM crm.candidate WHERE email = 'there8@crm.test'}), 0, 'and does not come back by an import');

# -----------------------------------------------------------------------------------------------------------------
# A row takes the address of somebody who is there already: Mailchimp's facts are in it
# -----------------------------------------------------------------------------------------------------------------

$crm->act('guest', 'add', status => 'unsubscribed');
pull();
$crm->ann(q{INSERT INTO crm.candidate (id, email) VALUES (200, 'guest@crm.test')});
$crm->run;
is(facts(200), 'unsubscribed ' . $crm->member('guest@crm.test')->{contact_id}, 'R91: of somebody with whom nothing is to be done there');

# Somebody moves there, and somebody else comes with the former address, both before anything is read.
$crm->act('c6', 'change_email', new_email => 'there6@crm.test');
$crm->act('c6', 'add', merge_fields => { FNAME => 'Another', LNAME => 'One' });
pull() for 1, 2;
is(row(6) . ' ' . $crm->ann(q{SELECT first_name, last_name FROM crm.candidate WHERE email = 'c6@crm.test'}), 'there6@crm.test|F6|L6 Another|One',
	'R93: who has an address that a row gives up gets a row');

# The latest wins: Mailchimp's change of a field is older than the CRM's, and our moving the member is none at all.
policy('latest_wins');
$crm->act('c9', 'edit', merge_fields => { FNAME => 'There9' });
$crm->later(10);
$crm->ann(q{UPDATE crm.candidate SET first_name = 'Here9', email = 'here9@crm.test' WHERE id = 9});
$crm->run;
$crm->later(10);
pull() for 1, 2;
is(row(9), 'here9@crm.test|Here9|L9', 'R85: the CRM keeps what it changed later');
is($crm->shown('here9@crm.test'), 'subscribed|Here9|g0', 'and Mailchimp has it, though the address went first');
policy('mailchimp_wins');

# Somebody who came in moves, and somebody else comes with the address; the CRM wins, so that is who the row is from then on.
policy('crm_wins');
$crm->act('visitor', 'add', merge_fields => { FNAME => 'Visitor', LNAME => 'One' });
pull();
my $visitor = $crm->ann(q{SELECT id FROM crm.candidate WHERE email = 'visitor@crm.test'});
$crm->act('visitor', 'change_email', new_email => 'gone@crm.test');
$crm->act('visitor', 'add', merge_fields => { FNAME => 'Visitor', LNAME => 'One' });
for (1 .. 3) { pull(); $crm->later(70) }
is($crm->member('gone@crm.test')->{status}, 'archived', 'who has the address is the member');
is(facts($visitor), 'subscribed ' . $crm->member('visitor@crm.test')->{contact_id}, 'R91: and the facts are theirs, not of the one before, who was archived after that');
policy('mailchimp_wins');

# The CRM refuses somebody, who then moves there.
$crm->ann(q{ALTER TABLE crm.candidate ADD CHECK (last_name <> 'Refused')});
$crm->act('odd', 'add', merge_fields => { LNAME => 'Refused' });
pull();
$crm->act('odd', 'change_email', new_email => 'even@crm.test');
pull();
is($crm->rita(q{SELECT string_agg(work || ' ' || email, ', ') FROM mc_failure}), 'pull even@crm.test', 'R62: a failure goes with the address that it names');

$run->quit;
done_testing();
